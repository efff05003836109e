package main

import (
	"fmt"
	"strings"
	"testing"

	"flexworker/internal/testing/expect"
	"flexworker/internal/testing/flextest"
	"flexworker/internal/testing/pgtest"
)

// TestResolveAsksFirst: who says that there is nothing is told what TaskRouter has, and not
// believed when it has the task, or cannot be asked.
func TestResolveAsksFirst(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	env := r.environment("LOOKUP_SETTLE=2m", unhurriedCalls)
	r.flex.SetTaskRouter(flextest.TaskRouter{Rate: -1}) // the commands follow each other faster than three a second
	w := r.command(env, "run")
	r.says(w.address, "ok", 200)
	r.flex.Script("u-0", flextest.CreateThenReset)
	r.flex.Script("u-1", flextest.Reset)
	r.must(`UPDATE outbox_gate SET lookup_at = now() + interval '50 minutes'`) // no lookup meanwhile
	r.send("u", 0, 2)
	expect.Eventually(t, func() error {
		return expect.Is("uncertain", r.count(`SELECT count(*) FROM outbox WHERE state = 'uncertain'`), 2)
	})
	stopped(t, w)
	why := func(line string) []string { return append(strings.Fields(line), "--why", "a test", "--by", "ann") }
	r.types(env, typed{why("resolve u-0 --attempt 1 --absent"), 1, []string{"u-0 is still looked up", "nothing was changed"}})
	r.must(`UPDATE outbox SET due_at = NULL, for_person_since = now()`)
	sid := r.flex.Ledger()[0].InteractionSID
	r.types(env, typed{why("resolve u-0 --attempt 1 --absent"), 1, []string{"TaskRouter's search in WS", "u-0 exists: nothing was changed", sid,
		"    worker resolve --created " + sid + " --attempt 1 --why ... -- u-0"}})
	r.types(append(env, "TASKROUTER_URL=http://127.0.0.1:1"), typed{why("resolve u-1 --attempt 1 --absent"), 1,
		[]string{"could not be searched", "that u-1 does not exist is not proved: nothing was changed", "--unverified"}})
	if n := r.count(`SELECT count(*) FROM outbox WHERE state = 'uncertain'`); n != 2 {
		t.Errorf("%d are left uncertain: %s", n, r.states())
	}
	// What proves nothing to a lookup, proves nothing to a person.
	grow := func(age string) {
		r.must(`UPDATE outbox SET attempt_began_at = now() - $1::interval, uncertain_since = now() - $1::interval, received_at = now() - $1::interval`, age)
	}
	refused := func(why ...string) typed {
		return typed{[]string{"resolve", "u-1", "--attempt", "1", "--absent", "--why", "a test", "--by", "ann"}, 1, append(why, "that u-1 does not exist is not proved: nothing was changed")}
	}
	grow("0 minutes") // the commands before may have taken longer than LOOKUP_SETTLE
	r.types(env, refused("before the settle time is over"))
	grow("40 days")
	r.types(env, refused("older than TaskRouter's event log"))
	grow("20 minutes")
	r.types(env, refused("the task list no longer counts", "proves nothing until it shows a task that was created later"))
	// An id that was used before: the interaction of then is not this request's.
	r.must(`UPDATE outbox SET received_at = now() + interval '1 hour'`)
	r.types(env, typed{why("resolve u-0 --attempt 1 --created " + sid), 1, []string{sid, "of an earlier request with this id", "nothing was changed"}})
	grow("3 minutes")
	r.types(env,
		typed{why("resolve u-1 --attempt 1 --absent"), 0, []string{"finds nothing.", "shows nothing.", "u-1 is now pending"}},
		typed{why("resolve u-0 --attempt 1 --created " + sid), 0, []string{"Flex shows " + sid, "channel sms", "u-0 is now created"}},
	)
}

// must runs a statement that a test needs to make time or damage.
func (r *rig) must(sql string, args ...any) {
	r.t.Helper()
	pgtest.Exec(r.t, r.pool, sql, args...)
}

// TestRecheckAfterLoss plays a failover to a standby that lagged. Requests that are pending
// in what is left were sent in the time that was lost, or were received in it and are known
// to the stream alone; one was not sent. Hold, replay, recheck, release: one interaction each.
func TestRecheckAfterLoss(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	env := r.environment()
	why := func(line string) []string { return append(strings.Fields(line), "--why", "a failover", "--by", "ann") }
	w := r.command(env, "run")
	r.says(w.address, "ok", 200)
	r.types(env, typed{why("hold"), 0, nil})
	r.send("left", 0, 4)
	r.send("unsent", 0, 1)
	expect.Eventually(t, func() error {
		return expect.Is("stored", r.count(`SELECT count(*) FROM outbox WHERE state = 'pending'`), 5)
	})
	tables := []string{"outbox", "outbox_attempts", "outbox_repeats"}
	for _, table := range tables {
		r.must(`CREATE TABLE kept_` + table + ` AS TABLE ` + table)
	}
	var since string
	if err := r.pool.QueryRow(t.Context(), `SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"')`).Scan(&since); err != nil {
		t.Fatal(err)
	}
	// The time that will be lost.
	r.types(env, typed{why("cancel unsent-0"), 0, nil}, typed{why("release"), 0, nil})
	r.send("gone", 0, 3)
	expect.Eventually(t, func() error {
		return expect.Is("created", r.count(`SELECT count(*) FROM outbox WHERE state = 'created'`), 7)
	})
	stopped(t, w)
	for _, table := range tables {
		r.must(`DELETE FROM ` + table)
		r.must(`INSERT INTO ` + table + ` OVERRIDING SYSTEM VALUE TABLE kept_` + table)
	}
	if err := r.js.DeleteConsumer(t.Context(), "INTERACTION_REQUESTS", "interaction-worker"); err != nil {
		t.Fatal(err)
	}
	recheck := why("recheck --since " + since)
	r.types(env,
		typed{recheck, 1, []string{"the fleet is not held", "    worker hold --why 'a failover'"}},
		typed{why("hold"), 0, nil})
	w = r.command(env, "run")
	r.says(w.address, "held", 200)
	expect.Eventually(t, func() error { return expect.Is("replayed", r.count(`SELECT count(*) FROM outbox`), 8) })
	r.types(env,
		typed{recheck, 1, []string{"would recheck: 8 requests", "nothing was changed. Say --yes"}},
		typed{why("recheck --since tomorrow"), 2, []string{"a moment in the past"}},
		typed{append(recheck, "--yes"), 0, []string{"recheck: 8 requests", "worker release"}})
	if n := r.count(`SELECT count(*) FROM outbox_attempts WHERE kind = 'attempt' AND number = 1 AND outcome = 'lost'`); n != 8 {
		t.Errorf("%d are asked about: %s", n, r.states())
	}
	if n := r.count(`SELECT count(*) FROM outbox_acts WHERE act = 'recheck' AND who = 'ann' AND was = 'pending'`); n != 8 {
		t.Errorf("%d acts are recorded", n)
	}
	r.types(env, typed{why("release"), 0, nil})
	expect.Eventually(t, func() error {
		if n := r.count(`SELECT count(*) FROM outbox WHERE state = 'created'`); n != 8 {
			return fmt.Errorf("%d of 8 are created: %s", n, r.states())
		}
		return nil
	})
	if n, twice := len(r.flex.Ledger()), r.flex.Duplicates(); n != 8 || len(twice) > 0 {
		t.Errorf("%d interactions, twice %v", n, twice)
	}
	sids := map[string]string{}
	for _, e := range r.flex.Ledger() {
		sids[e.TestID] = e.InteractionSID
	}
	for id, sid := range sids {
		if n := r.count(`SELECT count(*) FROM outbox WHERE request_id = $1 AND interaction_sid = $2`, id, sid); n != 1 {
			t.Errorf("%s is not settled as %s", id, sid)
		}
	}
	stopped(t, w)
}

// TestRecheckOfSettled plays a restore after which requests have settled unsent in the
// tables although they were created in the time that was lost: one expires and one is
// cancelled before anybody rechecks, and one stands rejected though its retry was lost. A
// person retries them all. What exists is adopted, one interaction each, and the answers
// that were given stay until then.
func TestRecheckOfSettled(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	env := r.environment()
	why := func(line string) []string { return append(strings.Fields(line), "--why", "a restore", "--by", "ann") }
	r.flex.Script("rejected-0", flextest.Status(400))
	w := r.command(env, "run")
	r.says(w.address, "ok", 200)
	r.send("rejected", 0, 1)
	if _, err := r.js.Publish(t.Context(), "interactions.requests.crm", []byte(`{"request_id":"faulty-0"}`)); err != nil {
		t.Fatal(err)
	}
	expect.Eventually(t, func() error {
		return expect.Is("published", r.count(`SELECT count(*) FROM outbox WHERE state = 'rejected' AND published_at IS NOT NULL`), 2)
	})
	r.types(env, typed{why("hold"), 0, nil})
	r.send("expires", 0, 1)
	r.send("cancelled", 0, 2)
	expect.Eventually(t, func() error {
		return expect.Is("stored", r.count(`SELECT count(*) FROM outbox WHERE state = 'pending'`), 3)
	})
	r.types(env, typed{why("cancel cancelled-1"), 0, nil}) // and never sent at all
	tables := []string{"outbox", "outbox_attempts", "outbox_repeats", "outbox_acts"}
	for _, table := range tables {
		r.must(`CREATE TABLE kept_` + table + ` AS TABLE ` + table)
	}
	since := r.text(`SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"')`)
	// The time that will be lost.
	r.types(env, typed{why("release"), 0, nil}, typed{why("retry rejected-0"), 0, nil})
	expect.Eventually(t, func() error {
		return expect.Is("created", r.count(`SELECT count(*) FROM outbox WHERE state = 'created'`), 3)
	})
	stopped(t, w)
	for _, table := range tables {
		r.must(`DELETE FROM ` + table)
		r.must(`INSERT INTO ` + table + ` OVERRIDING SYSTEM VALUE TABLE kept_` + table)
	}
	r.types(env, typed{why("hold"), 0, nil}, typed{why("cancel cancelled-0"), 0, nil})
	r.must(`UPDATE outbox SET expires_at = clock_timestamp() WHERE request_id = 'expires-0'`)
	w = r.command(env, "run")
	r.says(w.address, "held", 200)
	expect.Eventually(t, func() error {
		return expect.Is("answered", r.count(`SELECT count(*) FROM outbox WHERE published_at IS NOT NULL`), 5)
	})
	answers := `SELECT string_agg(request_id || state || error_kind || error_message || revision || settled_at || published_at, ' ' ORDER BY id) FROM outbox`
	before := r.text(answers)
	recheck := why("recheck --since " + since)
	r.types(env,
		typed{recheck, 1, []string{"would recheck: 0 requests", "4 requests that settled unsent may have been sent as well", "a retry looks first", "nothing was changed"}},
		typed{append(recheck, "--json"), 1, []string{`"looked_up_if_retried": 4`}},
		typed{append(recheck, "--yes"), 0, []string{"recheck: 0 requests", "4 requests that settled", "worker release"}},
		typed{[]string{"explain", "expires-0"}, 0, []string{"It is expired", "Nobody knows whether an attempt created it: a retry looks it up"}},
		typed{[]string{"explain", "faulty-0"}, 0, []string{"cannot be retried"}})
	if after := r.text(answers); after != before {
		t.Errorf("the answers were\n%s\nand are\n%s", before, after)
	}
	r.types(env,
		typed{why("retry expires-0 cancelled-0 cancelled-1 rejected-0 --yes"), 0, []string{"retry: 4 requests", "3 looked up before they are sent again\n", "1 looked up before they are sent again; its expires_at has passed"}},
		typed{why("release"), 0, nil})
	expect.Eventually(t, func() error {
		if n := r.count(`SELECT count(*) FROM outbox WHERE state = 'created'`); n != 4 {
			return fmt.Errorf("%d of 4 are created: %s", n, r.states())
		}
		return nil
	})
	if n, twice := len(r.flex.Ledger()), r.flex.Duplicates(); n != 4 || len(twice) > 0 {
		t.Errorf("%d interactions, twice %v", n, twice)
	}
	for _, e := range r.flex.Ledger() {
		if n := r.count(`SELECT count(*) FROM outbox WHERE request_id = $1 AND interaction_sid = $2`, e.TestID, e.InteractionSID); n != 1 {
			t.Errorf("%s is not settled as %s", e.TestID, e.InteractionSID)
		}
	}
	r.types(env, typed{[]string{"audit", "--tables-only"}, 0, []string{"The tables balance"}})
	stopped(t, w)
}
