package operator_test

import (
	"testing"
	"time"

	"flexworker/internal/outbox/request"
	"flexworker/internal/testing/pgtest"
)

// TestOutcomes: each minute up to the last one that was counted is there, with the sum of all sources.
func TestOutcomes(t *testing.T) {
	t.Parallel()
	s := newRig(t)
	pgtest.Exec(t, s.pool, `UPDATE outbox_counted SET until = date_trunc('minute', now()) - interval '2 minutes'`)
	pgtest.Exec(t, s.pool, `
		INSERT INTO outbox_minutes (minute, source, outcome, n)
		SELECT until - make_interval(mins => before), source, outcome, n
		  FROM outbox_counted, (VALUES (1, 'crm', 'created', 5), (1, 'shop', 'created', 6), (1, 'crm', 'rejected', 1), (8, '', 'expired', 2),
		               (98, 'crm', 'created', 9), (0, 'crm', 'created', 9)) AS v (before, source, outcome, n)`) // the last two do not count: too old, and beyond what was counted
	o, err := s.desk.Outcomes(t.Context(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	sum := map[request.State]int{}
	for i, m := range o.Minutes {
		if want := o.Minutes[0].At.Add(time.Duration(i) * time.Minute); !m.At.Equal(want) {
			t.Errorf("minute %d begins at %v, want %v", i, m.At, want)
		}
		for state, n := range m.Settled {
			sum[state] += n
		}
	}
	if last := o.Minutes[len(o.Minutes)-1]; !last.At.Add(time.Minute).Equal(o.Until) || last.Settled[request.Created] != 11 || last.Settled[request.Rejected] != 1 {
		t.Errorf("the last is %+v, and counted is up to %v", last, o.Until)
	}
	// The minute that began an hour ago is the first, whichever that was when the question was asked.
	if first := o.Minutes[0].At; !first.Equal(o.Now.Add(-time.Hour).Truncate(time.Minute)) || len(sum) != 3 || sum[request.Created] != 11 || sum[request.Expired] != 2 {
		t.Errorf("from %v, asked at %v, with %v", first, o.Now, sum)
	}
}

// TestHeld: the times at which the fleet was held, one after another, and the one that goes on.
func TestHeld(t *testing.T) {
	t.Parallel()
	s := newRig(t)
	pgtest.Exec(t, s.pool, `
		INSERT INTO outbox_acts (at, who, why, act, was)
		SELECT now() - ago, who, act || ' by ' || who, act, ''
		  FROM (VALUES (interval '9 hours', 'old', 'hold'), ('8 hours', 'old', 'release'), ('7 hours', 'eve', 'hold'), ('30 minutes', 'ann', 'release'),
		               ('29 minutes', 'ann', 'release'), ('20 minutes', 'ann', 'hold'), ('19 minutes', 'eve', 'hold'), ('10 minutes', 'bob', 'release'),
		               ('5 minutes', 'bob', 'rate'), ('1 minute', 'bob', 'hold')) AS v (ago, who, act)`)
	o, err := s.desk.Outcomes(t.Context(), time.Hour)
	if err != nil || len(o.Held) != 3 {
		t.Fatalf("%+v, %v", o.Held, err)
	}
	ago := func(d time.Duration) time.Time { return o.Now.Add(-d) }
	for i, want := range []struct {
		who          string
		since, until time.Duration
	}{{"eve", 7 * time.Hour, 30 * time.Minute}, {"ann", 20 * time.Minute, 10 * time.Minute}, {"bob", time.Minute, 0}} {
		got := o.Held[i]
		near := func(a, b time.Time) bool { return a.Sub(b).Abs() < 50*time.Second } // the acts were written a moment before
		if got.Who != want.who || got.Why != "hold by "+want.who || !near(got.Since, ago(want.since)) || (got.Until == nil) != (want.until == 0) ||
			got.Until != nil && !near(*got.Until, ago(want.until)) {
			t.Errorf("%+v, want %+v", got, want)
		}
	}
}
