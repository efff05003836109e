// Command endpoint runs the imitation of Flex and TaskRouter, package flextest,
// as a process of its own: for the compose file and the soak. Its settings are
// environment variables, see config; how it fails is said over its control API
// while it runs. It holds no data beyond its life and is no place for real
// credentials.
//
//	endpoint              run until SIGTERM or SIGINT
//	endpoint healthcheck  ask the one that listens on ADDR; exit status 1 when it does not answer
package main

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/kelseyhightower/envconfig"

	"flexworker/internal/testing/flextest"
)

// config is everything that can be set, with its default.
type config struct {
	Addr       string `envconfig:"ADDR" default:":9090"`
	AccountSID string `envconfig:"ACCOUNT_SID"` // accepted with AUTH_TOKEN; each of the four defaults to
	AuthToken  string `envconfig:"AUTH_TOKEN"`  // the constant that flextest exports
	APIKey     string `envconfig:"API_KEY"`
	APISecret  string `envconfig:"API_SECRET"`

	Status      int           `envconfig:"STATUS" default:"200"`      // of a good create
	Latency     time.Duration `envconfig:"LATENCY" default:"0s"`      // of every create
	Concurrency int           `envconfig:"CONCURRENCY" default:"0"`   // creates in flight, 429 beyond; 0: no limit
	Lag         time.Duration `envconfig:"LAG" default:"0s"`          // until a task and its event are listed
	Life        time.Duration `envconfig:"LIFE" default:"0s"`         // until a task is completed by itself; 0: never
	RateLimit   bool          `envconfig:"RATE_LIMIT" default:"true"` // three task searches a second
	Keep        int           `envconfig:"KEEP" default:"100000"`     // bodies kept; 0: all
	Seed        uint64        `envconfig:"SEED" default:"1"`          // of the dice for faults that meet a share
}

func main() {
	log := slog.New(slog.NewJSONHandler(os.Stderr, nil))
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:], log); err != nil {
		log.Error("endpoint failed", "error", err)
		os.Exit(1)
	}
}

// run does what the arguments say and returns when ctx ends.
func run(ctx context.Context, args []string, log *slog.Logger) error {
	var cfg config
	if err := envconfig.Process("", &cfg); err != nil {
		return err
	}
	switch {
	case len(args) == 1 && args[0] == "healthcheck":
		return cfg.healthcheck(ctx)
	case len(args) > 0:
		return fmt.Errorf("unknown arguments %q: there is only healthcheck", args)
	}
	srv, err := flextest.Start(cfg.server())
	if err != nil {
		return err
	}
	defer srv.Close()
	log.Info("endpoint listens", "address", srv.Addr())
	<-ctx.Done()
	log.Info("endpoint stops", "created", srv.Calls().Created)
	return nil
}

// server is the configuration in the words of flextest.
func (c config) server() flextest.Config {
	rate := 0
	if !c.RateLimit {
		rate = -1
	}
	return flextest.Config{
		Addr: c.Addr,
		Credentials: []flextest.Credential{
			{User: cmp.Or(c.AccountSID, flextest.AccountSID), Secret: cmp.Or(c.AuthToken, flextest.AuthToken)},
			{User: cmp.Or(c.APIKey, flextest.APIKey), Secret: cmp.Or(c.APISecret, flextest.APISecret)},
		},
		Keep:       c.Keep,
		Seed:       c.Seed,
		Settings:   flextest.Settings{Status: c.Status, Latency: c.Latency, Concurrency: c.Concurrency},
		TaskRouter: flextest.TaskRouter{Lag: c.Lag, EventLag: c.Lag, Life: c.Life, Rate: rate},
	}
}

// healthcheck asks the endpoint on this machine.
func (c config) healthcheck(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+local(c.Addr)+"/_control/healthz", nil)
	if err != nil {
		return err
	}
	// No proxy: it would be asked for itself.
	res, err := (&http.Client{Transport: &http.Transport{}}).Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("healthz answered %s", res.Status)
	}
	return nil
}

// local is where a listener on addr is reached from this machine.
func local(addr string) string {
	host, port, err := net.SplitHostPort(addr)
	if ip := net.ParseIP(host); err == nil && (host == "" || ip != nil && ip.IsUnspecified()) {
		return net.JoinHostPort("127.0.0.1", port)
	}
	return addr
}
