package main

import (
	"testing"
)

// TestFleetCommand: an operator sees who runs, with which word, and where settings
// differ; one restarted with an old FLEX_RATE changes nothing; a rate by hand stays
// until it is taken back. A worker that stops takes its row with it.
func TestFleetCommand(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	cfg := r.config()
	cfg.FlexRate = 30
	w1 := r.start(cfg)
	r.says(cfg.AdminAddr, "ok", 200)
	old := r.config()
	old.FlexRate = 5
	w2 := r.start(old)
	r.says(old.AdminAddr, "ok", 200)
	env := r.environment()
	r.types(env, typed{[]string{"fleet"}, 0, []string{"NAME", "ok", "Rate: 30 attempts a second.", "FLEX_RATE differs: 30 (", "; 5 (", "stays as it was"}},
		typed{[]string{"fleet", "--json"}, 0, []string{`"rate": 30`, `"FLEX_RATE": "5"`, `"setting": "FLEX_RATE"`}},
		typed{[]string{"rate", "25"}, 2, []string{"why"}},
		typed{[]string{"rate", "--why", "x"}, 2, []string{"either a number", "--auto"}},
		typed{[]string{"rate", "25", "--auto", "--why", "x"}, 2, []string{"either a number"}},
		typed{[]string{"rate", "NaN", "--why", "x"}, 2, []string{"is not a number of attempts"}},
		typed{[]string{"rate", "25", "--why", "a campaign", "--by", "ann"}, 0, []string{"rate: 25 attempts a second", "more than the 20 a second that Twilio publishes"}},
		typed{[]string{"fleet"}, 0, []string{"Rate: 25 attempts a second, set by ann", "`worker rate --auto --why ...`"}})
	w2.stop()
	w2.wait()
	r.types(env, typed{[]string{"rate", "--auto", "--why", "it is over"}, 0, []string{"follows FLEX_RATE"}})
	eventually(t, func() error { return is("the rate", r.count(`SELECT rate::int FROM outbox_gate`), 30) })
	if n := r.count(`SELECT count(*) FROM outbox_replicas`); n != 1 {
		t.Errorf("%d workers have a row, one runs", n)
	}
	w1.stop()
	w1.wait()
	if n := r.count(`SELECT count(*) FROM outbox_replicas`); n != 0 {
		t.Errorf("%d workers have a row, none runs", n)
	}
}
