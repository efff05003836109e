package operator_test

import (
	"testing"
	"time"

	"flexworker/internal/outbox/operator"
	"flexworker/internal/testing/pgtest"
)

var afterLoss = operator.Act{Why: "a failover"}

// recheck holds the fleet and rechecks.
func (s *rig) recheck(t *testing.T, since time.Time, attribute string) operator.Rechecked {
	t.Helper()
	if _, err := s.desk.Hold(t.Context(), afterLoss); err != nil {
		t.Fatal(err)
	}
	would, err := s.desk.Recheck(t.Context(), afterLoss, since, attribute, true)
	if err != nil {
		t.Fatal(err)
	}
	sum, err := s.desk.Recheck(t.Context(), afterLoss, since, attribute, false)
	if err != nil || sum != would {
		t.Fatalf("%+v, %v; the preview said %+v", sum, err, would)
	}
	return sum
}

// TestRecheckDatesTheLostAttempt: the attempt that may be lost was made after the loss began,
// and after the request came: that is when its row was written, or, of one that is stored again,
// when the stream had the first message that asked for it. Who made it nobody knows.
func TestRecheckDatesTheLostAttempt(t *testing.T) {
	t.Parallel()
	s := newRig(t)
	now := pgtest.One[time.Time](t, s.pool, `SELECT clock_timestamp()`)
	ago := func(d time.Duration) time.Time { return now.Add(-d) }
	since := ago(time.Hour)
	mustAdd(t, s, "r", 6, keyed)
	for id, at := range map[string]struct{ received, stream time.Time }{
		"r-1": {ago(2 * time.Hour), ago(2 * time.Hour)},
		"r-2": {ago(20 * time.Minute), ago(30 * time.Minute)},
		"r-3": {ago(20 * time.Minute), ago(2 * time.Hour)},
		"r-4": {ago(20 * time.Minute), ago(10 * time.Minute)}, // the stream's clock is ahead
		"r-5": {ago(20 * time.Minute), ago(30 * time.Minute)},
		"r-6": {ago(20 * time.Minute), ago(30 * time.Minute)},
	} {
		pgtest.Exec(t, s.pool, `UPDATE outbox SET received_at = $2, stream_time = $3 WHERE request_id = $1`, id, at.received, at.stream)
	}
	// Of r-5 a later message was stored again first.
	pgtest.Exec(t, s.pool, `INSERT INTO outbox_repeats (outbox_id, source, stream_sequence, stream_time) SELECT id, 'crm', 99, $1 FROM outbox WHERE request_id = 'r-5'`, ago(40*time.Minute))
	pgtest.Exec(t, s.pool, `UPDATE outbox SET state = 'sending', due_at = NULL, attempt = 1, attempt_began_at = $1, leased_by = 'w9 1', leased_until = $2 WHERE request_id = 'r-6'`,
		ago(50*time.Minute), ago(49*time.Minute))
	if sum := s.recheck(t, since, ""); sum.LookedUp != 6 {
		t.Fatal(sum)
	}
	for id, want := range map[string]struct {
		began, received time.Time
		worker          string
	}{
		"r-1": {since, ago(2 * time.Hour), "unknown"},
		"r-2": {ago(30 * time.Minute), ago(30 * time.Minute), "unknown"},
		"r-3": {since, ago(2 * time.Hour), "unknown"},
		"r-4": {ago(20 * time.Minute), ago(20 * time.Minute), "unknown"},
		"r-5": {ago(40 * time.Minute), ago(40 * time.Minute), "unknown"},
		"r-6": {ago(50 * time.Minute), ago(30 * time.Minute), "w9 1"},
	} {
		var began, started, received time.Time
		var worker string
		if err := s.pool.QueryRow(t.Context(), `
			SELECT attempt_began_at, started_at, received_at, worker FROM outbox o JOIN outbox_attempts a ON outbox_id = o.id AND number = attempt
			 WHERE request_id = $1`, id).Scan(&began, &started, &received, &worker); err != nil {
			t.Fatal(id, err)
		}
		if !began.Equal(want.began) || !started.Equal(want.began) || !received.Equal(want.received) || worker != want.worker {
			t.Errorf("%s: began %s, in the history %s, received %s, by %s; want %s, received %s, by %s",
				id, began, started, received, worker, want.began, want.received, want.worker)
		}
	}
}

// TestRecheckKnowsWhatProvesNothing: a search finds a task only under the attribute that its
// call carried. Of a decided attempt the old attribute says nothing about the lost one. Where
// an undecided attempt carried another one, or was answered, finding nothing proves nothing.
func TestRecheckKnowsWhatProvesNothing(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		row       string // how it stands in what is left
		attribute string // of the lost time
		under     string // "": for a person
		answered  bool
	}{
		"never sent":                             {`state = 'pending'`, "new", "new", false},
		"refused under another":                  {`state = 'pending', attempt = 1, lookup_attribute = 'old', answered = true`, "new", "new", false},
		"undecided under the same":               {`state = 'pending', attempt = 1, undecided = true, lookup_attribute = 'new'`, "new", "new", false},
		"undecided under the same, and answered": {`state = 'pending', attempt = 1, undecided = true, answered = true, lookup_attribute = 'new'`, "new", "new", true},
		"undecided under another":                {`state = 'pending', attempt = 1, undecided = true, lookup_attribute = 'old'`, "new", "old", true},
		"uncertain under another":                {`state = 'uncertain', attempt = 1, error_kind = 'timeout', lookup_attribute = 'old'`, "new", "old", true},
		"rejected under another":                 {`state = 'rejected', attempt = 1, error_kind = 'http_400', due_at = NULL, settled_at = now(), lookup_attribute = 'old'`, "new", "new", false},
		"abandoned, undecided under another":     {`state = 'abandoned', attempt = 1, error_kind = 'undecided', due_at = NULL, settled_at = now(), lookup_attribute = 'old'`, "new", "old", true},
		"no lookups in the lost time":            {`state = 'pending'`, "", "", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newRig(t)
			mustAdd(t, s, "r", 1, keyed)
			pgtest.Exec(t, s.pool, `UPDATE outbox SET attempt_began_at = now(), uncertain_since = now(), `+tt.row)
			pgtest.Exec(t, s.pool, `INSERT INTO outbox_replicas (name, version, state, lookup_attribute, lookup_settle, flex_timeout, flex_rate, uncertain_policy, retention)
				VALUES ('w', '', 'ok', $1, '1 minute', '1 minute', 0, 'hold', '0')`, tt.attribute)
			sum := s.recheck(t, time.Now().Add(-time.Hour), "")
			settled := pgtest.One[bool](t, s.pool, `SELECT settled_at IS NOT NULL FROM outbox`)
			want := operator.Rechecked{LookedUp: 1}
			switch {
			case settled:
				want = operator.Rechecked{IfRetried: 1}
			case tt.under == "":
				want = operator.Rechecked{ForPerson: 1}
			}
			if sum != want {
				t.Errorf("%+v, want %+v", sum, want)
			}
			under := pgtest.One[*string](t, s.pool, `SELECT lookup_attribute FROM outbox`)
			person := pgtest.One[bool](t, s.pool, `SELECT for_person_since IS NOT NULL FROM outbox`)
			if r := s.row(t, "r-1"); pgtest.Deref(under) != tt.under || r.Answered != tt.answered || person != (tt.under == "") {
				t.Errorf("under %q, answered %t, for a person %t; want %q, %t", pgtest.Deref(under), r.Answered, person, tt.under, tt.answered)
			}
		})
	}
}

// TestRecheckMarksWhatARetryWouldSend: of what has settled, that which a retry would send,
// whenever it settled. It keeps its state and its answer.
func TestRecheckMarksWhatARetryWouldSend(t *testing.T) {
	t.Parallel()
	settled := `due_at = NULL, settled_at = now() - interval '2 days', published_at = now(), error_kind = 'x', `
	for name, tt := range map[string]struct {
		row  string
		want bool
	}{
		"rejected by Flex":  {settled + `state = 'rejected', attempt = 1`, true},
		"abandoned":         {settled + `state = 'abandoned', attempt = 3`, true},
		"expired":           {settled + `state = 'expired'`, true},
		"cancelled":         {settled + `state = 'cancelled'`, true},
		"failed the check":  {settled + `state = 'rejected', faults = '[]'`, false},
		"not before 2100":   {settled + `state = 'cancelled', request = '{"not_before":"2100-01-01T09:00:00Z"}'`, false},
		"created":           {settled + `state = 'created', attempt = 1, interaction_sid = 'KD' || repeat('a', 32), resolved_by = 'response'`, false},
		"pending till 2100": {`due_at = '2100-01-01T09:00:00Z', request = '{"not_before":"2100-01-01T09:00:00Z"}'`, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newRig(t)
			mustAdd(t, s, "r", 1, keyed)
			pgtest.Exec(t, s.pool, `UPDATE outbox SET `+tt.row)
			shown := `SELECT concat_ws(' ', state, error_kind, error_message, http_status, revision, settled_at, published_at, received_at) FROM outbox`
			before, attempt := pgtest.One[string](t, s.pool, shown), s.row(t, "r-1").Attempt
			sum := s.recheck(t, time.Now().Add(-time.Hour), "")
			if sum != (operator.Rechecked{IfRetried: map[bool]int{true: 1}[tt.want]}) {
				t.Error(sum)
			}
			if undecided := pgtest.One[bool](t, s.pool, `SELECT undecided FROM outbox`); undecided != tt.want {
				t.Errorf("undecided %t", undecided)
			}
			if after := s.row(t, "r-1").Attempt; (after == attempt+1) != tt.want { // the lost one has a number of its own
				t.Errorf("attempt %d after %d", after, attempt)
			}
			if after := pgtest.One[string](t, s.pool, shown); after != before {
				t.Errorf("it was %s and is %s", before, after)
			}
		})
	}
}
