package main

import (
	"fmt"
	"strings"
	"testing"

	"flexworker/internal/testing/expect"
	"flexworker/internal/testing/pgtest"
)

// TestAsynchronousStandby: the standby that is promoted lacks the last commits, since no commit waited for it. Who holds
// the fleet, replays and rechecks has one interaction for each request. Who only releases it has two for each that was
// sent in the time that was lost: the table knows of no call, and nobody asked.
func TestAsynchronousStandby(t *testing.T) {
	t.Parallel()
	for name, recheck := range map[string]bool{"rechecked": true, "not rechecked": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			const kept, left, gone = 10, 4, 3
			primary := pgtest.NewServer(t)
			standby := pgtest.NewAsynchronousStandby(t, primary)
			r := rigOn(t, bothHosts(t, primary, standby)+"&target_session_attrs=read-write")
			env := r.environment(unhurriedCalls)
			why := func(line string) []string { return append(strings.Fields(line), "--why", "a failover", "--by", "ann") }
			created := func(n int) {
				t.Helper()
				r.eventually(func() error {
					return expect.Is("created", r.count(`SELECT count(*) FROM outbox WHERE state = 'created'`), n)
				})
			}
			w := r.command(env, "run")
			r.says(w.address, "ok", 200)
			r.send("kept", 0, kept)
			created(kept)
			r.types(env, typed{why("hold"), 0, nil})
			r.send("left", 0, left)
			expect.Eventually(t, func() error {
				return expect.Is("stored", r.count(`SELECT count(*) FROM outbox WHERE state = 'pending'`), left)
			})
			var since string
			if err := r.pool.QueryRow(t.Context(), `SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"')`).Scan(&since); err != nil {
				t.Fatal(err)
			}
			standby.Unfollow(t, primary)
			r.types(env, typed{why("release"), 0, nil})
			r.send("gone", 0, gone)
			created(kept + left + gone)
			stopped(t, w)
			if err := primary.Kill(); err != nil {
				t.Fatal(err)
			}
			if err := standby.Promote(t.Context()); err != nil {
				t.Fatal(err)
			}
			r.eventually(func() error {
				return expect.Is("what is left", r.count(`SELECT count(*) FROM outbox`), kept+left)
			})
			if n := r.count(`SELECT count(*) FROM outbox WHERE state = 'pending'`); n != left {
				t.Errorf("%d are pending in what is left: %s", n, r.states())
			}
			want, twice := kept+left, left
			if recheck {
				if err := r.js.DeleteConsumer(t.Context(), requestsStream, consumerName); err != nil {
					t.Fatal(err)
				}
				want, twice = kept+left+gone, 0
			}
			w = r.command(env, "run")
			r.says(w.address, "held", 200) // as the standby has it
			if recheck {
				expect.Eventually(t, func() error { return expect.Is("replayed", r.count(`SELECT count(*) FROM outbox`), want) })
				r.types(env, typed{append(why("recheck --since "+since), "--yes"), 0, []string{fmt.Sprintf("recheck: %d requests", left+gone)}})
			}
			r.types(env, typed{why("release"), 0, nil})
			created(want)
			if n := len(r.flex.Duplicates()); n != twice {
				t.Errorf("%d requests have two interactions, want %d", n, twice)
			}
			if n := len(r.flex.Ledger()); n != kept+left+gone+twice {
				t.Errorf("%d interactions for %d requests", n, kept+left+gone)
			}
			stopped(t, w)
		})
	}
}
