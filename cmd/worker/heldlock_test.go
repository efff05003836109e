package main

import (
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"flexworker/internal/testing/expect"
	"flexworker/internal/testing/flextest"
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
	expect.Eventually(r.t, func() error {
		return expect.Is("replicas that say why", r.count(`SELECT count(*) FROM outbox_replicas WHERE state = 'database' AND reason LIKE '% for %: pid ' || $1 || ' %'`, pid), 1)
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
	expect.Eventually(t, func() error {
		return expect.Is("stored", r.count(`SELECT count(*) FROM outbox WHERE state = 'pending'`), 3)
	})
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
	expect.Eventually(t, func() error {
		return expect.Is("said to be over", strings.Contains(out.String(), `trouble="nothing can be claimed`), true)
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
			for _, words := range []string{"pid " + pid + " (psql, ", "a message cannot be stored"} { // another loop may have been the first
				out.says(t, words, 1)
			}
			r.stuck(pid)
			r.types(r.environment(), typed{[]string{"status"}, 3, []string{"Replicas: 1\n", "database", "pid " + pid + " (psql, ", " holds outbox", "the rest cannot be read"}})
			done()
			r.says(cfg.AdminAddr, "ok", 200)
			in.balanced(40)
			if n := r.count(`SELECT count(*) FROM outbox_attempts WHERE outcome <> 'created' OR kind <> 'attempt'`); n != 0 {
				t.Errorf("%d attempts or lookups came to something else: %s", n, r.text(`SELECT string_agg(kind || ' ' || outcome || ' ' || coalesce(error, ''), '; ') FROM outbox_attempts WHERE outcome <> 'created'`))
			}
			r.uncounted()
		})
	}
}

// TestActsBesideLocks: a command for many leaves out what another session holds, says so and ends with
// 3; a command for one names who holds it; afterwards both do their work.
func TestActsBesideLocks(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	env := r.environment()
	r.must(`INSERT INTO outbox (request_id, source, state, request, due_at, stream_sequence, stream_time) SELECT 'p-' || n, 'shop', 'pending', '{}', now(), n, now() FROM generate_series(1, 3) n`)
	r.must(`INSERT INTO outbox (request_id, source, state, request, attempt, error_kind, error_message, attempt_began_at, uncertain_since, for_person_since, stream_sequence, stream_time)
		VALUES ('u-1', 'crm', 'uncertain', '{}', 1, 'timeout', '', now(), now(), now(), 4, now())`)
	pid, done := r.psql(`SELECT FROM outbox WHERE request_id IN ('p-2', 'u-1') FOR UPDATE`)
	gatePID, release := r.psql(`SELECT FROM outbox_gate FOR UPDATE`)
	who := "pid " + pid + " (psql, user "
	resolve := []string{"resolve", "u-1", "--absent", "--unverified", "--attempt", "1", "--why", "a test"}
	r.types(env,
		typed{[]string{"cancel", "--where", "--state", "pending", "--why", "a test", "--yes"}, 3,
			[]string{"cancel: 2 requests: p-1, p-3\n", "cancel: 1 request is locked by another session and left out; run it again: p-2", who}},
		typed{[]string{"cancel", "p-2", "--why", "a test"}, 3, []string{"cancel: 1 request is locked by another session and left out; run it again: p-2", who}},
		typed{[]string{"cancel", "p-2", "p-9", "--why", "a test", "--yes"}, 3, []string{"run it again: p-2", `no request has the id "p-9"`}},
		typed{[]string{"cancel", "p-2", "--why", "a test", "--json"}, 3, []string{`"locked": [
    "p-2"
  ]`}},
		typed{resolve, 3, []string{"nothing was changed", who}},
		typed{[]string{"hold", "--why", "a test"}, 3, []string{"nothing was changed", "pid " + gatePID + " (psql, user "}},
		typed{[]string{"rate", "5", "--why", "a test"}, 3, []string{"nothing was changed", "pid " + gatePID + " (psql, user "}})
	if n := r.count(`SELECT count(*) FROM outbox_acts`); n != 2 {
		t.Errorf("%d acts are recorded", n)
	}
	done()
	release()
	r.types(env, typed{[]string{"cancel", "p-2", "--why", "a test"}, 0, []string{"cancel: 1 request: p-2\n"}}, typed{resolve, 0, []string{"u-1 is now pending"}},
		typed{[]string{"hold", "--why", "a test"}, 0, []string{"the gate is now held"}})
}
