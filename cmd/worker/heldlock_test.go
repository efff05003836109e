package main

import (
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"flexworker/internal/flex/flextest"
)

// psql is a person's session in a transaction that holds what sql locks, until done.
func (r *rig) psql(sql string) (pid string, done func()) {
	r.t.Helper()
	ctx := r.t.Context()
	conn, err := pgx.Connect(ctx, r.dsn)
	if err != nil {
		r.t.Fatal(err)
	}
	done = func() { _ = conn.Close(ctx) } // which ends the transaction
	r.t.Cleanup(done)
	for _, s := range []string{`SET application_name = 'psql'`, `BEGIN`, sql} {
		if _, err := conn.Exec(ctx, s); err != nil {
			r.t.Fatal(err)
		}
	}
	return fmt.Sprint(conn.PgConn().PID()), done
}

// stuck waits until a worker's row says `database`, and which session it is that holds the lock. It
// is renewed also while the table is locked.
func (r *rig) stuck(pid string) {
	r.t.Helper()
	eventually(r.t, func() error {
		return is("replicas that say why", r.count(`SELECT count(*) FROM outbox_replicas WHERE state = 'database' AND reason LIKE '% for %: pid ' || $1 || ' %'`, pid), 1)
	})
}

// TestGateRowHeld: a person who holds the gate's row stops the fleet. /readyz says so, the log
// and `worker status` name the session, and all goes on once the row is free.
func TestGateRowHeld(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	in := r.read()
	cfg := r.config()
	cfg.FlexRate = 50 // without a rate no claim takes the row
	out := r.startLogged(cfg)
	r.says(cfg.AdminAddr, "ok", 200)
	r.send("before", 0, 1)
	in.balanced(1)
	pid, done := r.psql(`SELECT rate FROM outbox_gate FOR UPDATE`)
	r.send("while", 0, 3)
	r.says(cfg.AdminAddr, "database", 503)
	if n := r.flex.Calls().Created; n != 1 {
		t.Errorf("%d were created while nobody could claim", n)
	}
	if said := out.String(); strings.Count(said, "nothing can be claimed") != 1 || !strings.Contains(said, "pid "+pid+" (psql, ") {
		t.Errorf("the log does not name the session %s once", pid)
	}
	r.types(r.environment(), typed{[]string{"status"}, 0, []string{"Locks:\n    pid " + pid + " (psql, ", " holds outbox_gate", "        SELECT rate FROM outbox_gate FOR UPDATE\n", "3  pending"}})
	r.stuck(pid)
	done()
	r.says(cfg.AdminAddr, "ok", 200)
	in.balanced(4)
	eventually(t, func() error {
		return is("said to be over", strings.Contains(out.String(), `trouble="nothing can be claimed`), true)
	})
	r.types(r.environment(), typed{[]string{"status"}, 0, []string{"Locks: nothing"}})
}

// TestTableLockedForLong: while a table is locked for longer than a statement may wait, /readyz
// says so. Outcomes are kept in hand, messages wait, no request becomes uncertain and none is
// sent twice.
func TestTableLockedForLong(t *testing.T) {
	t.Parallel()
	for name, limits := range map[string]string{"lock_timeout": "lock_timeout=200ms", "statement_timeout": "lock_timeout=0&statement_timeout=300ms"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			in := r.read()
			cfg := r.config()
			u, err := url.Parse(r.dsn)
			if err != nil {
				t.Fatal(err)
			}
			u.RawQuery += "&" + limits
			cfg.DatabaseURL, cfg.FlexConcurrency, cfg.FlexTimeout = secretOf(u.String()), 4, time.Minute // no lease lapses meanwhile
			out := r.startLogged(cfg)
			r.says(cfg.AdminAddr, "ok", 200)
			r.flex.Set(flextest.Settings{Latency: 500 * time.Millisecond}) // so that calls are in flight
			r.send("before", 0, 20)
			r.reached("some are created", func(c flextest.Calls) bool { return c.Created >= 4 })
			pid, done := r.psql(`LOCK TABLE outbox IN ACCESS EXCLUSIVE MODE`)
			r.send("while", 0, 20)
			r.says(cfg.AdminAddr, "database", 503)
			if said := out.String(); !strings.Contains(said, "pid "+pid+" (psql, ") || !strings.Contains(said, "a message cannot be stored") {
				t.Errorf("the log does not name the session %s, or not that messages wait", pid)
			}
			r.stuck(pid)
			r.types(r.environment(), typed{[]string{"status"}, 3, []string{"Replicas: 1\n", "database", "pid " + pid + " (psql, ", " holds outbox", "the rest cannot be read"}})
			done()
			r.says(cfg.AdminAddr, "ok", 200)
			in.balanced(40)
			if n := r.count(`SELECT count(*) FROM outbox_attempts WHERE outcome <> 'created' OR kind <> 'attempt'`); n != 0 {
				t.Errorf("%d attempts or lookups came to something else: %s", n, r.text(`SELECT string_agg(kind || ' ' || outcome || ' ' || coalesce(error, ''), '; ') FROM outbox_attempts WHERE outcome <> 'created'`))
			}
			r.spared()
		})
	}
}
