package main

import (
	"testing"

	"flexworker/internal/testing/expect"
	"flexworker/internal/testing/flextest"
)

// TestCloseDuplicate: the close as it is typed, of a request that a proxy on the way has had created twice.
func TestCloseDuplicate(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	env := r.environment(unhurriedCalls)
	w := r.command(env, "run")
	r.says(w.address, "ok", 200)
	r.flex.Script("d-0", flextest.CreateTwice)
	r.send("d", 0, 1)
	expect.Eventually(t, func() error {
		return expect.Is("created", r.count(`SELECT count(*) FROM outbox WHERE state = 'created'`), 1)
	})
	var kept, duplicate string
	if err := r.pool.QueryRow(t.Context(), `SELECT interaction_sid FROM outbox`).Scan(&kept); err != nil {
		t.Fatal(err)
	}
	for _, e := range r.flex.Ledger() {
		if e.InteractionSID != kept {
			duplicate = e.InteractionSID
		}
	}
	line := func(sid string, more ...string) []string {
		return append([]string{"close", "d-0", sid, "--why", "a good reason", "--by", "ann"}, more...)
	}
	r.types(env,
		typed{[]string{"close", "d-0", "--why", "x"}, 2, []string{"the sid of the duplicate, KD..., and 1 words were given"}},
		typed{[]string{"close", "d-0", duplicate}, 2, []string{`required flag(s) "why" not set`}},
		typed{line(kept, "--yes"), 1, []string{kept + " is the interaction of d-0 itself"}},
		typed{line("KD12", "--yes"), 1, []string{"KD12 is not the sid of an interaction"}},
		typed{line(duplicate, "--attempt", "7", "--yes"), 1, []string{"you speak of attempt 7"}},
		typed{line(duplicate), 1, []string{"Flex shows " + duplicate, "It is kept: Flex shows " + kept, "would close UO", "nothing was changed. Say --yes"}},
		typed{line(duplicate, "--json"), 1, []string{`"would_close": [`, `"status": "active"`}},
	)
	if n := r.flex.Calls().Closed; n != 0 {
		t.Errorf("%d were closed", n)
	}
	r.types(env,
		typed{line(duplicate, "--attempt", "1", "--yes"), 0, []string{"closed: UO", "which was active"}},
		typed{line(duplicate, "--yes"), 1, []string{duplicate + " is closed already"}},
	)
	if n := r.flex.Calls().Closed; n != 1 {
		t.Errorf("%d were closed", n)
	}
	if n := r.count(`SELECT count(*) FROM outbox_acts WHERE act = 'close' AND who = 'ann' AND why = 'a good reason' AND was LIKE '%active)'`); n != 1 {
		t.Errorf("%d acts are recorded", n)
	}
	stopped(t, w)
}
