package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go"

	"flexworker/internal/database"
	"flexworker/internal/senders"
)

// Limits that every session has. The server's are shorter than the worker's own
// (database.WriteLimit), because a statement that is cut from this side costs its
// connection.
const (
	connectTimeout   = 3 * time.Second
	natsWriteTimeout = 5 * time.Second
	statementTimeout = "8s"
	doctorTimeout    = 10 * time.Second // of one question to Twilio
	sendersTimeout   = "2s"
	peoplesTimeout   = "10min" // of the operators' verbs, some of which read whole tables
	lockTimeout      = "4s"
	idleInTxTimeout  = "5s" // also what a stopped process can hold the gate for
)

// openPool gives a pool that connects when it is first used. Each connection
// takes the user and password of that moment, and the certificates, so rotated files count; host and
// database stay those of the start. configure may add to it; nil: nothing. What dsn
// itself says of pool and session stands, but for what database.Parse pins and for
// the isolation.
func openPool(ctx context.Context, dsn Secret, size int, statementTimeout string, configure func(*pgxpool.Config)) (*pgxpool.Pool, error) {
	if problem := databaseProblem(dsn.Value()); problem != "" {
		return nil, fmt.Errorf("DATABASE_URL %s", problem)
	}
	config, err := database.Parse(dsn.Value())
	if err != nil { // which quotes the address
		return nil, errors.New("DATABASE_URL is not a Postgres address such as postgres://worker@db/worker")
	}
	limitPool(config, size)
	for name, value := range map[string]string{
		"application_name": "flexworker", "statement_timeout": statementTimeout, "lock_timeout": lockTimeout,
		"idle_in_transaction_session_timeout": idleInTxTimeout, "tcp_keepalives_idle": "15",
		// Whatever a role has for other programs: a lease that a crash of Postgres undoes is
		// a second call.
		"synchronous_commit": "on",
	} {
		database.Default(config.ConnConfig, name, value)
	}
	// Whatever dsn says as well: who waits for another's commit has to see it, or prune
	// removes a request with a repeat that nobody has answered.
	database.Set(config.ConnConfig, "default_transaction_isolation", "read committed")
	if configure != nil {
		configure(config)
	}
	config.BeforeConnect = func(_ context.Context, c *pgx.ConnConfig) error {
		if now, err := database.Parse(dsn.Value()); err == nil {
			c.User, c.Password = now.ConnConfig.User, now.ConnConfig.Password
			readCertificates(c, now.ConnConfig)
		}
		return nil
	}
	return pgxpool.NewWithConfig(ctx, config)
}

// readCertificates gives c what now has read of the files that sslrootcert, sslcert and sslkey name, where both lead to the same
// servers: for each of these TLS has the server's name.
func readCertificates(c, now *pgx.ConnConfig) {
	if c.Host != now.Host || c.Port != now.Port || !slices.EqualFunc(c.Fallbacks, now.Fallbacks, func(a, b *pgconn.FallbackConfig) bool {
		return a.Host == b.Host && a.Port == b.Port
	}) {
		return
	}
	c.TLSConfig = now.TLSConfig
	for i, f := range now.Fallbacks {
		c.Fallbacks[i].TLSConfig = f.TLSConfig
	}
}

// limitPool gives a pool of at most size connections its limits. What the address says
// of them (pool_max_conns and the like, connect_timeout) stands.
func limitPool(config *pgxpool.Config, size int) {
	if !database.Said(config, "pool_max_conns") {
		config.MaxConns = max(int32(size), config.MinConns, config.MinIdleConns)
	}
	for name, set := range map[string]func(){
		"pool_max_conn_idle_time":       func() { config.MaxConnIdleTime = time.Minute },
		"pool_max_conn_lifetime":        func() { config.MaxConnLifetime = 30 * time.Minute },
		"pool_max_conn_lifetime_jitter": func() { config.MaxConnLifetimeJitter = 5 * time.Minute },
		"pool_health_check_period":      func() { config.HealthCheckPeriod = 10 * time.Second },
		"pool_ping_timeout":             func() { config.PingTimeout = 2 * time.Second }, // the default is none
		"connect_timeout":               func() { config.ConnConfig.ConnectTimeout = connectTimeout },
	} {
		if !database.Said(config, name) {
			set()
		}
	}
	// A connection is asked whether it lives only after a real rest: the default, a
	// second, would double the questions of an idle worker.
	config.ShouldPing = func(_ context.Context, p pgxpool.ShouldPingParams) bool { return p.IdleDuration > 5*time.Second }
}

// connectError is an error of connecting to Postgres, under the name of the setting.
type connectError struct{ error }

// Error says each thing once: pgx tries a server twice, with TLS and without, and lists both.
func (e connectError) Error() string {
	return "DATABASE_URL: " + strings.Join(slices.Compact(strings.Split(e.error.Error(), "\n")), "\n")
}

func (e connectError) Unwrap() error { return e.error }

// fromDatabase is err, and names the setting where Postgres could not be connected to.
func fromDatabase(err error) error {
	if away := (*pgconn.ConnectError)(nil); errors.As(err, &away) {
		return connectError{err}
	}
	return err
}

// forWorking is database.ForLoops, on sessions that can write.
func forWorking(config *pgxpool.Config) {
	database.OnlyReadWrite(config)
	database.ForLoops(config)
}

// inboxPrefix is where all answers to this program come: one permission for the worker
// and for the verbs.
const inboxPrefix = "_INBOX.flexworker"

// natsOptions are those of every connection: who we are, and where answers come.
func natsOptions(cfg Config) []nats.Option {
	options := []nats.Option{nats.CustomInboxPrefix(inboxPrefix)}
	if cfg.NATSCredsFile != "" {
		options = append(options, nats.UserCredentials(cfg.NATSCredsFile))
	}
	if cfg.NATSCAFile != "" {
		options = append(options, nats.RootCAs(cfg.NATSCAFile))
	}
	if cfg.NATSCertFile != "" {
		options = append(options, nats.ClientCert(cfg.NATSCertFile, cfg.NATSKeyFile))
	}
	return options
}

// errClosed means that the library has given the connection up, which it does when
// the server says what it does not know how to mend, and will not connect again.
var errClosed = errors.New("NATS has closed the connection for good")

// connectNATS connects, or goes on trying in the background for as long as the
// worker runs, unless the connection is closed for good.
func connectNATS(cfg Config, worker string, health *natsHealth, log *slog.Logger) (*nats.Conn, error) {
	if problem := natsProblem(string(cfg.NATSURL)); problem != "" {
		return nil, fmt.Errorf("NATS_URL %s", problem) // the library's errors would quote it
	}
	options := []nats.Option{
		nats.Name("flexworker " + worker),
		nats.MaxReconnects(-1), nats.RetryOnFailedConnect(true), nats.IgnoreAuthErrorAbort(),
		nats.CustomReconnectDelay(func(int) time.Duration {
			// The library tells its handler of a server that it cannot dial, and of none with which it does not agree: neither side
			// trusts the other's certificate, or the user is refused.
			if c := health.conn.Load(); c != nil && c.LastError() != nil {
				health.isNotReached(c.LastError(), cfg.NATSURL, log)
			}
			return time.Second + rand.N(500*time.Millisecond)
		}),
		nats.ReconnectErrHandler(func(_ *nats.Conn, err error) { health.isNotReached(err, cfg.NATSURL, log) }),
		nats.PingInterval(10 * time.Second), nats.MaxPingsOutstanding(2), nats.Timeout(connectTimeout),
		// In a black hole a write stands still, with the library's lock held: by default for a minute, in which no ping
		// is missed.
		nats.FlusherTimeout(natsWriteTimeout), nats.ReconnectOnFlusherError(),
		// A publish while disconnected fails at once, in place of being sent by
		// surprise after its error was reported.
		nats.ReconnectBufSize(-1),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if err != nil {
				health.awaySince.CompareAndSwap(0, time.Now().UnixNano())
				log.Warn("NATS is away; trying to reconnect", "error", err)
			}
		}),
		nats.ReconnectHandler(func(c *nats.Conn) {
			health.isReached()
			away := time.Duration(0) // it was not there when the worker started
			if since := health.awaySince.Swap(0); since != 0 {
				away = time.Since(time.Unix(0, since))
			}
			log.Info("NATS is back", "server", shownAddress(c.ConnectedUrlRedacted()), "away", away.Round(time.Millisecond).String())
		}),
		nats.NoCallbacksAfterClientClose(), // so the next one is for what we did not do
		nats.ClosedHandler(func(c *nats.Conn) { health.closed(fmt.Errorf("%w: %w", errClosed, c.LastError())) }),
		nats.ErrorHandler(func(c *nats.Conn, _ *nats.Subscription, err error) {
			health.refusals.note(c, err, cfg.ServiceSubject, log)
		}),
	}
	conn, err := nats.Connect(string(cfg.NATSURL), append(natsOptions(cfg), options...)...)
	if err != nil {
		return nil, natsError{err, cfg.NATSURL}
	}
	health.conn.Store(conn)
	return conn, nil
}

// natsError is an error of connecting to NATS, under the name of the setting.
type natsError struct {
	error
	at natsURL
}

// Error leaves out the hosts that are not shown: the error of a resolver quotes them.
func (e natsError) Error() string {
	said := e.error.Error()
	for _, part := range natsParts(string(e.at)) {
		if u, err := url.Parse(part); err == nil && maybeSeed(u.Hostname()) {
			said = strings.ReplaceAll(said, u.Hostname(), "(hidden)")
		}
	}
	return fmt.Sprintf("NATS at %s (NATS_URL): %s", e.at, said)
}

func (e natsError) Unwrap() error { return e.error }

// dispensable says whether a refused subject is one without which requests move:
// a look at the results stream, the watch for what is no longer delivered, and the service for
// senders below service (SERVICE_SUBJECT) with its answers: where these go its askers say.
func dispensable(err error, service string) bool {
	subjects := []string{"$JS.API.STREAM.", "$JS.EVENT.ADVISORY.", `"$SRV.`, `PUBLISH TO "` + nats.InboxPrefix, `PUBLISH TO "_R_.`}
	for _, kind := range senders.Kinds {
		subjects = append(subjects, `"`+service+"."+kind.String()+".")
	}
	text := strings.ToUpper(err.Error())
	for _, subject := range subjects {
		if strings.Contains(text, strings.ToUpper(subject)) {
			return true
		}
	}
	return false
}

// workerName is a name that no other process has: it signs leases and history.
func workerName() string {
	host, err := os.Hostname()
	if err != nil || host == "" {
		host = "worker"
	}
	host, _, _ = strings.Cut(host, ".")
	// Replicas may share host and pid, in containers; what was leased and not told of
	// is taken back by this name alone.
	return fmt.Sprintf("%s-%d-%016x", host, os.Getpid(), rand.Uint64())
}
