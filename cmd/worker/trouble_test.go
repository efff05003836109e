package main

import (
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"flexworker/internal/testing/expect"
	"flexworker/internal/testing/faultproxy"
	"flexworker/internal/trouble"
)

// TestOutageInTheLog: while Postgres is away each loop says so once, and once that it works again.
func TestOutageInTheLog(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	address, err := url.Parse(r.dsn)
	if err != nil {
		t.Fatal(err)
	}
	proxy := faultproxy.New(t, address.Host)
	address.Host = proxy.Addr()
	w := r.command(r.environment("DATABASE_URL="+address.String(), "LOG_FORMAT=text"))
	r.says(w.address, "ok", 200)
	proxy.Refuse()
	proxy.Cut()
	r.says(w.address, "database", 503)
	for _, loop := range []string{"nothing can be claimed", "the table cannot be looked at"} {
		expect.Eventually(t, func() error {
			if !strings.Contains(w.log.String(), loop) {
				return fmt.Errorf("it does not say that %s", loop)
			}
			return nil
		})
	}
	for range 5 { // each waits for the database as long as a prober does: the loops fail again meanwhile
		r.says(w.address, "database", 503)
	}
	latest := map[string]time.Time{}
	for line := range strings.Lines(w.log.String()) {
		_, said, _ := strings.Cut(line, "level=WARN msg=")
		said, _, _ = strings.Cut(said, " error=") // which may be another each time
		if said == "" {
			continue
		}
		written, _, _ := strings.Cut(strings.TrimPrefix(line, "time="), " ")
		at, err := time.Parse(time.RFC3339, written)
		if err != nil {
			t.Fatal(err)
		}
		// A busy machine may need more than a minute to come here; then the loops say it again, as they should.
		if before, again := latest[said]; again && at.Sub(before) < trouble.Every-time.Second {
			t.Errorf("%s: said again after %v", said, at.Sub(before))
		}
		latest[said] = at
	}
	if len(latest) < 2 {
		t.Errorf("the log says of %d troubles that they began, want at least 2", len(latest))
	}
	proxy.Heal()
	r.says(w.address, "ok", 200)
	expect.Eventually(t, func() error {
		for _, loop := range []string{"nothing can be claimed", "the table cannot be looked at"} {
			if n := strings.Count(w.log.String(), `msg="works again" worker=`); n == 0 || !strings.Contains(w.log.String(), `trouble="`+loop) {
				return fmt.Errorf("%d loops work again, %s not said", n, loop)
			}
		}
		return nil
	})
	stopped(t, w)
}
