package crashtest

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"flexworker/internal/testing/expect"
	"flexworker/internal/testing/faultproxy"
	"flexworker/internal/testing/flextest"
	"flexworker/internal/testing/pgtest"
)

// TestRollingRestart: three replicas are replaced one after the other under
// load. Nothing is lost, doubled or uncertain.
func TestRollingRestart(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	fleet := []*replica{r.start("", unhurried), r.start("", unhurried), r.start("", unhurried)}
	r.flex.Set(flextest.Settings{Latency: 100 * time.Millisecond})
	for i, w := range fleet {
		r.send(fmt.Sprint("before-", i), 50, "")
		r.start("", unhurried).consuming()
		w.consuming().term()
	}
	r.balanced(0)
	if n := r.count(`SELECT count(*) FROM outbox_attempts WHERE kind = 'attempt' AND outcome NOT IN ('created', 'released')`); n != 0 {
		t.Errorf("%d attempts came to no good end: %s", n, r.states())
	}
}

// TestMetricsInAnOutage: metrics and liveness are answered at once while
// Postgres does not answer at all: no scrape asks it (frain-dev/convoy#2807).
func TestMetricsInAnOutage(t *testing.T) {
	t.Parallel()
	server := pgtest.NewServer(t)
	r := newRigOn(t, server.DSN("postgres"))
	port, err := faultproxy.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	address := fmt.Sprintf("http://127.0.0.1:%d", port)
	r.start("", fmt.Sprintf("ADMIN_ADDR=127.0.0.1:%d", port))
	get := func(path string) (string, error) {
		client := http.Client{Timeout: time.Second}
		response, err := client.Get(address + path)
		if err != nil {
			return "", err
		}
		defer response.Body.Close()
		body, err := io.ReadAll(response.Body)
		if err == nil && response.StatusCode != http.StatusOK {
			err = errors.New(response.Status)
		}
		return string(body), err
	}
	counted := func() error { // the table is looked at every 15 s, by nobody's wish
		text, err := get("/metrics")
		if err == nil && !strings.Contains(text, "flexworker_requests{") {
			err = errors.New("no metric of the table")
		}
		return err
	}
	expect.Eventually(t, counted)
	if err := server.Pause(); err != nil {
		t.Fatal(err)
	}
	// Who asks Postgres has no answer within the client's second, however often he asks. A busy machine may be late once.
	for range 5 {
		expect.Eventually(t, counted)
		expect.Eventually(t, func() error { _, err := get("/healthz"); return err })
	}
	if err := server.Resume(); err != nil {
		t.Fatal(err)
	}
}
