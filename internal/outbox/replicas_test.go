package outbox

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"flexworker/internal/outbox/gate"
	"flexworker/internal/testing/expect"
	"flexworker/internal/testing/pgtest"
)

// enrolled is the Registry of a worker with this FLEX_RATE on the same tables.
func enrolled(t testing.TB, s *Store, name string, rate float64) *gate.Registry {
	t.Helper()
	r := &gate.Registry{Pool: s.pool, Name: name, WentBack: s.upkeep().WentBack, Version: "v1", Log: logger(t), Standing: func(context.Context) gate.Standing { return gate.Standing{Word: gate.WordOK} },
		Settings: gate.Settings{Account: "AC1", LookupAttribute: "interaction_request", LookupSettle: time.Minute, FlexTimeout: 15 * time.Second,
			FlexRate: rate, UncertainPolicy: "hold", Retention: 720 * time.Hour, ConfirmRate: 5}}
	renewed(t, r)
	return r
}

func renewed(t testing.TB, all ...*gate.Registry) {
	t.Helper()
	for _, r := range all {
		if err := r.Renew(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

func fleetOf(t testing.TB, s *Store) gate.Fleet {
	t.Helper()
	f, err := gate.ReadFleet(t.Context(), s.pool)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// rateActs are what was done to the rate: who, and what it was.
func rateActs(t testing.TB, s *Store) string {
	t.Helper()
	return pgtest.One[string](t, s.pool, `SELECT coalesce(string_agg(who || ': ' || was, '; ' ORDER BY id), '') FROM outbox_acts WHERE act = 'rate'`)
}

// TestRateStaysWhileWorkersDiffer: FLEX_RATE is in force where all living workers
// agree. One that starts with another changes nothing, and a dead one has no say.
func TestRateStaysWhileWorkersDiffer(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	check := func(when string, want float64, did string) {
		t.Helper()
		if g := readGate(t, s); g.Rate != want {
			t.Errorf("%s: the rate is %v, want %v", when, g.Rate, want)
		}
		if got := rateActs(t, s); got != did {
			t.Errorf("%s: acts %q, want %q", when, got, did)
		}
	}
	w1 := enrolled(t, s, "w1", 30)
	check("the first worker on an empty table", 30, "w1: 0")
	old := enrolled(t, s, "w2", 5)
	renewed(t, w1, old, w1)
	check("one restarted with an old environment", 30, "w1: 0")
	if f := fleetOf(t, s); len(f.Differences) != 1 || f.Differences[0].String() != "FLEX_RATE differs: 30 (w1); 5 (w2)" {
		t.Errorf("the differences are %v", f.Differences)
	}
	pgtest.Exec(t, s.pool, `UPDATE outbox_replicas SET seen_at = seen_at - interval '20 s' WHERE name = 'w1'`) // it was killed
	renewed(t, old)
	check("the other is dead", 5, "w1: 0; w2: 30")
	if err := s.desk().Rate(t.Context(), ann, 12); err != nil {
		t.Fatal(err)
	}
	renewed(t, old, w1, old)
	check("set by hand", 12, "w1: 0; w2: 30; "+"ann@desk"+": 5, now 12")
	old.Settings.FlexRate = 30
	renewed(t, old, w1)
	check("set by hand, and they agree", 12, "w1: 0; w2: 30; "+"ann@desk"+": 5, now 12")
	if f := fleetOf(t, s); f.RateBy == nil || *f.RateBy != "ann@desk" || len(f.Differences) != 0 {
		t.Errorf("%+v", f)
	}
	if err := s.desk().RateAuto(t.Context(), ann); err != nil {
		t.Fatal(err)
	}
	check("automatic, before the next look", 12, "w1: 0; w2: 30; "+"ann@desk"+": 5, now 12; "+"ann@desk"+": 12 by "+"ann@desk"+", now auto")
	renewed(t, w1, old)
	check("automatic", 30, "w1: 0; w2: 30; "+"ann@desk"+": 5, now 12; "+"ann@desk"+": 12 by "+"ann@desk"+", now auto; w1: 12")
	if tokens := pgtest.One[float64](t, s.pool, `SELECT tokens FROM outbox_gate`); tokens > gate.Burst(30) {
		t.Errorf("%v tokens are saved up", tokens)
	}
}

// TestDifferencesAreSaidOnce: a WARN when settings begin to differ and a line when they are equal again.
func TestDifferencesAreSaidOnce(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	w1, w2 := enrolled(t, s, "w1", 5), enrolled(t, s, "w2", 5)
	var said strings.Builder
	w1.Log = textLog(&said)
	w2.Settings.FlexTimeout, w2.Settings.LookupAttribute, w2.Settings.ConfirmRate = time.Minute, "", 0
	renewed(t, w2, w1, w1, w2, w1)
	if n := strings.Count(said.String(), "level=WARN"); n != 1 || !strings.Contains(said.String(),
		"LOOKUP_ATTRIBUTE differs: (empty) (w2); interaction_request (w1). FLEX_TIMEOUT differs: 15s (w1); 1m0s (w2). CONFIRM differs: false (w2); true, 5 reads a second (w1)") {
		t.Errorf("said %d times: %s", n, said.String())
	}
	w2.Settings = w1.Settings
	renewed(t, w2, w1, w1)
	if n := strings.Count(said.String(), "equal again"); n != 1 {
		t.Errorf("the end is said %d times: %s", n, said.String())
	}
}

// TestReplicaRow: a worker's row says what it says of itself and since when; it goes
// as the worker leaves, or after an hour without a renewal, whichever way the clock went.
func TestReplicaRow(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	w1 := enrolled(t, s, "w1", 5)
	w2 := enrolled(t, s, "w2", 5)
	pgtest.Exec(t, s.pool, `UPDATE outbox_replicas SET state_since = state_since - interval '1 minute'`)
	renewed(t, w1)
	first := fleetOf(t, s).Replicas[0]
	if first.Name != "w1" || first.Version != "v1" || !first.Alive || first.State != gate.WordOK || first.Reason != nil || first.Last != nil ||
		first.Settings != w1.Settings || time.Since(first.Since) < 30*time.Second {
		t.Errorf("%+v", first)
	}
	w1.Standing = func(context.Context) gate.Standing {
		return gate.Standing{Word: gate.WordUnreachable, Reason: "no \x00 way", Last: time.Now().Add(-time.Minute)}
	}
	renewed(t, w1)
	now := fleetOf(t, s).Replicas[0]
	if now.State != gate.WordUnreachable || pgtest.Deref(now.Reason) != "no \uFFFD way" || !now.Since.After(first.Since) || now.Last == nil || !now.StartedAt.Equal(first.StartedAt) {
		t.Errorf("%+v", now)
	}
	for _, tt := range []struct {
		seen  string
		alive bool
		stays bool
	}{
		{"- interval '10 s'", true, true}, {"- interval '20 s'", false, true}, {"- interval '59 minutes'", false, true}, {"- interval '61 minutes'", false, false},
		{"+ interval '20 s'", false, true}, {"+ interval '61 minutes'", false, false}, // the clock went back
	} {
		var f gate.Fleet
		var shown bool
		expect.Eventually(t, func() error {
			renewed(t, w2)
			began := time.Now()
			pgtest.Exec(t, s.pool, `UPDATE outbox_replicas SET state = 'unreachable', seen_at = clock_timestamp() `+tt.seen+` WHERE name = 'w2'`)
			renewed(t, w1)
			f = fleetOf(t, s)
			shown = pgtest.One[bool](t, s.pool, `SELECT EXISTS (SELECT FROM outbox_attention WHERE what = 'replica' AND id = 'w2')`)
			if took := time.Since(began); took > 4*time.Second {
				return fmt.Errorf("seen at now %s: the looks took %v, in which it may have come to live or to die", tt.seen, took)
			}
			return nil
		})
		if stays := len(f.Replicas) == 2; stays != tt.stays || stays && f.Replicas[1].Alive != tt.alive {
			t.Errorf("seen at now %s: %+v", tt.seen, f.Replicas)
		}
		if shown != tt.alive {
			t.Errorf("seen at now %s: outbox_attention shows it: %v", tt.seen, shown)
		}
	}
	if err := w1.Leave(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := pgtest.One[int](t, s.pool, `SELECT count(*) FROM outbox_replicas WHERE name = 'w1'`); n != 0 {
		t.Error("its row stays")
	}
}

// TestFleetAsJSON: durations are readable, and what is not there is null or empty.
func TestFleetAsJSON(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	enrolled(t, s, "w1", 5)
	text, err := json.Marshal(fleetOf(t, s))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"LOOKUP_SETTLE":"1m0s"`, `"differences":[]`, `"rate":5`, `"rate_by":null`, `"last_created_at":null`, `"state":"ok"`} {
		if !strings.Contains(string(text), want) {
			t.Errorf("%s has no %s", text, want)
		}
	}
}

// TestWordsAreOneList: the words of the schema, and which of them are ready.
func TestWordsAreOneList(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	w1 := enrolled(t, s, "w1", 5)
	ready := 0
	for _, word := range gate.Words {
		w1.Standing = func(context.Context) gate.Standing { return gate.Standing{Word: word} }
		renewed(t, w1)
		if word.Ready() {
			ready++
		}
	}
	if ready != 5 || gate.Word("").Ready() {
		t.Errorf("%d words are ready", ready)
	}
}

// TestNewWorkersDiffer: workers that start together on a new database with different FLEX_RATE
// keep to the lowest, which the log says, where 0, no limit, is the highest. A rate of 0 that was once set stays.
func TestNewWorkersDiffer(t *testing.T) {
	t.Parallel()
	for _, rates := range [][3]float64{{30, 5, 5}, {0, 7, 7}, {7, 0, 7}, {0, 0, 0}} {
		s := newStore(t)
		w1 := enrolled(t, s, "w1", rates[0])
		w2 := enrolled(t, s, "w2", rates[1])
		// As if both had written their rows before either has looked.
		pgtest.Exec(t, s.pool, `UPDATE outbox_gate SET rate = 0`)
		pgtest.Exec(t, s.pool, `DELETE FROM outbox_acts`)
		var said strings.Builder
		w1.Log = textLog(&said)
		renewed(t, w1)
		if text := fmt.Sprintf("rate=%v was=0", rates[2]); rates[2] != 0 && !strings.Contains(said.String(), text) {
			t.Errorf("%v: the log does not say %s: %s", rates, text, said.String())
		}
		renewed(t, w2, w1)
		if g := readGate(t, s); g.Rate != rates[2] {
			t.Errorf("%v: the rate is %v", rates, g.Rate)
		}
	}
	s := newStore(t)
	w1 := enrolled(t, s, "w1", 5)
	w1.Settings.FlexRate = 0
	renewed(t, w1)
	w2 := enrolled(t, s, "w2", 5)
	renewed(t, w1, w2)
	if g := readGate(t, s); g.Rate != 0 {
		t.Errorf("no limit was agreed upon, and the rate is %v", g.Rate)
	}
}
