package outbox

import (
	"context"
	"errors"
	"testing"
	"time"

	"flexworker/internal/flex"
	"flexworker/internal/outbox/attempt"
	"flexworker/internal/outbox/request"
	"flexworker/internal/outbox/upkeep"
	"flexworker/internal/testing/expect"
	"flexworker/internal/testing/pgtest"
)

// TestLapse: a lease that ran out becomes uncertain, with a row of history in
// the name of its holder; one that stands does not.
func TestLapse(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	mustAdd(t, s, "l", 3)
	mustClaim(t, s, 2)
	other := s.another("w2")
	if n, err := other.lapse(t.Context()); n != 0 || err != nil {
		t.Fatalf("%d lapsed, %v", n, err)
	}
	pgtest.Exec(t, s.pool, `UPDATE outbox SET leased_until = clock_timestamp() - interval '1 minute' WHERE request_id = 'l-1'`)
	ended, held := *s.row(t, "l-1").LeasedUntil, *s.row(t, "l-1").LeasedBy
	before := pgtest.One[time.Time](t, s.pool, `SELECT clock_timestamp()`)
	if n, err := other.lapse(t.Context()); n != 1 || err != nil {
		t.Fatalf("%d lapsed, %v", n, err)
	}
	after := pgtest.One[time.Time](t, s.pool, `SELECT clock_timestamp()`)
	r := s.row(t, "l-1")
	if r.State != request.Uncertain || r.LeasedBy != nil || r.LeasedUntil != nil || pgtest.Deref(r.ErrorKind) != "lapsed" || !pgtest.Deref(r.UncertainSince).Equal(ended) || r.Answered || r.Uncounted != 0 {
		t.Errorf("%+v", r)
	}
	if due := pgtest.One[time.Time](t, s.pool, `SELECT due_at FROM outbox WHERE request_id = 'l-1'`); due.Before(before.Add(upkeep.LapsedRest)) || due.After(after.Add(upkeep.LapsedRest)) {
		t.Errorf("it lapsed between %v and %v and is looked up at %v, want %v later: its holder may live", before, after, due, upkeep.LapsedRest)
	}
	if h := s.histories(t, "l-1"); h != "1 lapsed" {
		t.Errorf("history %q", h)
	}
	if w := pgtest.One[string](t, s.pool, `SELECT worker FROM outbox_attempts`); w != held {
		t.Errorf("history of worker %s, want %s", w, held)
	}
	if n, err := other.lapse(t.Context()); n != 0 || err != nil {
		t.Errorf("%d lapsed again, %v", n, err)
	}
	if a, b := s.row(t, "l-2").State, s.row(t, "l-3").State; a != request.Sending || b != request.Pending {
		t.Errorf("the others are %s and %s", a, b)
	}
	pgtest.CheckOutbox(t, s.pool)
}

// TestExpire: only what waits unsent expires, and only past its deadline.
func TestExpire(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	later := pgtest.One[time.Time](t, s.pool, `SELECT clock_timestamp() + interval '1 hour'`)
	mustAdd(t, s, "x", 4, func(e *request.Event) { e.ExpiresAt = later })
	sending := mustClaim(t, s, 2)
	if n, err := s.expire(t.Context()); n != 0 || err != nil {
		t.Fatalf("%d expired, %v", n, err)
	}
	pgtest.Exec(t, s.pool, `UPDATE outbox SET expires_at = clock_timestamp() - interval '1 s' WHERE request_id <> 'x-4'`)
	if n, err := s.expire(t.Context()); n != 1 || err != nil {
		t.Fatalf("%d expired, %v", n, err)
	}
	r := s.row(t, "x-3")
	if r.State != request.Expired || r.SettledAt == nil || r.DueIn != nil || pgtest.Deref(r.ErrorKind) != "expired" || r.Attempt != 0 {
		t.Errorf("%+v", r)
	}
	if hint := <-s.Results.Queue.Queue; hint.RequestID != "x-3" || hint.State != request.Expired {
		t.Errorf("hint %+v", hint)
	}
	// What was being sent when its deadline passed is sent; released, it expires.
	if err := s.release(t.Context(), sending[0]); err != nil {
		t.Fatal(err)
	}
	if n, err := s.expire(t.Context()); n != 1 || err != nil {
		t.Errorf("%d expired, %v", n, err)
	}
	if got := s.row(t, sending[1].RequestID).State; got != request.Sending {
		t.Errorf("the other is %s", got)
	}
	pgtest.CheckOutbox(t, s.pool)
}

// TestPruneKeys: an idempotency key goes when it counts no longer, also where all else is kept for ever.
func TestPruneKeys(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	pgtest.Exec(t, s.pool, `INSERT INTO outbox_idempotency_keys (key, asked, who, kept_until) SELECT n || '', sha256(''), 'ann', now() - n * interval '1 hour' FROM generate_series(-1, 2 * $1::integer) AS n WHERE n <> 0`, upkeep.PruneBatch)
	s.pruner(0).PruneAll(t.Context())
	if got := pgtest.One[string](t, s.pool, `SELECT string_agg(key, ' ') FROM outbox_idempotency_keys`); got != "-1" {
		t.Errorf("left: %s", got)
	}
}

// TestPrune: what is settled, published and old goes, with its history and its
// repeats; nothing else does.
func TestPrune(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	ids := mustAdd(t, s, "p", 6)
	for _, l := range mustClaim(t, s, 5) {
		if _, err := s.record(t.Context(), told(l, flex.Outcome{Kind: flex.Rejected, ErrorKind: "http_400"})); err != nil {
			t.Fatal(err)
		}
	}
	for i, id := range ids {
		if _, err := s.Add(t.Context(), event(id, uint64(100+i))); err != nil { // asked again
			t.Fatal(err)
		}
	}
	for i := range 2 {
		if err := s.AddMalformed(t.Context(), request.Malformed{Message: event("", uint64(200+i)).Message, Err: "x"}); err != nil {
			t.Fatal(err)
		}
	}
	old, young := "clock_timestamp() - interval '40 days'", "clock_timestamp() - interval '1 day'"
	for _, sql := range []string{
		`UPDATE outbox_repeats SET published_at = ` + old + ` WHERE stream_sequence <> 104`,
		`UPDATE outbox SET settled_at = ` + old + `, published_at = ` + old + ` WHERE request_id IN ('p-1', 'p-2', 'p-5')`, // p-5: a repeat waits
		`UPDATE outbox SET settled_at = ` + old + ` WHERE request_id = 'p-3'`,                                              // not published
		`UPDATE outbox SET settled_at = ` + young + `, published_at = ` + young + ` WHERE request_id = 'p-4'`,
		`UPDATE outbox SET received_at = ` + old + ` WHERE request_id = 'p-6'`, // pending
		`UPDATE outbox SET stream_time = ` + old,
		`UPDATE outbox_repeats SET stream_time = ` + old,
		`UPDATE outbox_malformed SET stream_time = ` + old,
		`UPDATE outbox_malformed SET received_at = ` + old,
		`UPDATE outbox_malformed SET published_at = ` + old + ` WHERE stream_sequence = 200`,
	} {
		pgtest.Exec(t, s.pool, sql)
	}
	if n, err := s.prune(t.Context(), 30*24*time.Hour); n != 2 || err != nil {
		t.Fatalf("%d pruned, %v", n, err)
	}
	if n, err := s.pruner(30 * 24 * time.Hour).PruneMalformed(t.Context()); n != 1 || err != nil {
		t.Fatalf("%d malformed ones pruned, %v", n, err)
	}
	for what, want := range map[string]string{
		`SELECT string_agg(request_id, ' ' ORDER BY request_id) FROM outbox`:                                              "p-3 p-4 p-5 p-6",
		`SELECT string_agg(request_id, ' ' ORDER BY request_id) FROM outbox_attempts a JOIN outbox o ON o.id = outbox_id`: "p-3 p-4 p-5",
		`SELECT string_agg(stream_sequence::text, ' ' ORDER BY stream_sequence) FROM outbox_repeats`:                      "102 103 104 105",
		`SELECT string_agg(stream_sequence::text, ' ' ORDER BY stream_sequence) FROM outbox_malformed`:                    "201",
		`SELECT count(*)::text FROM outbox_attempts WHERE NOT EXISTS (SELECT FROM outbox o WHERE o.id = outbox_id)`:       "0",
	} {
		if got := pgtest.One[string](t, s.pool, what); got != want {
			t.Errorf("%s: %s, want %s", what, got, want)
		}
	}
	if n, err := s.prune(t.Context(), 30*24*time.Hour); n != 0 || err != nil {
		t.Errorf("%d pruned again, %v", n, err)
	}
	// A replay of what was removed is a new request; the stream's age is to prevent it.
	if got, err := s.Add(t.Context(), event("p-1", 1)); err != nil || got != Accepted {
		t.Errorf("replayed: %v, %v", got, err)
	}
}

// TestSweepRuns: the loop does both at its own pace, and ends.
func TestSweepRuns(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	mustAdd(t, s, "s", upkeep.SweepBatch+20)
	mustClaim(t, s, 10)
	pgtest.Exec(t, s.pool, `UPDATE outbox SET expires_at = clock_timestamp(), leased_until = leased_until - interval '1 hour'`)
	w := s.upkeep()
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan struct{})
	running(t, w.Poll)
	go func() { defer close(ended); w.Sweep(ctx) }()
	expect.Eventually(t, func() error {
		if w.Counters.Lapsed.Load() != 10 || w.Counters.Expired.Load() != upkeep.SweepBatch+10 {
			return errors.New("not all is swept")
		}
		return nil
	})
	stop()
	<-ended
	pgtest.CheckOutbox(t, s.pool)
}

// TestPruneManyMalformed: a round removes all malformed messages that are old, also
// where no request is.
func TestPruneManyMalformed(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	pgtest.Exec(t, s.pool, `
		INSERT INTO outbox_malformed (kind, stream, stream_sequence, stream_time, subject, source, headers, raw, error, published_at)
		SELECT 'malformed', 'REQUESTS', i, now() - interval '2 hours', 's', 's', '{}', '', 'x', now() - CASE WHEN i > 3 THEN interval '2 hours' ELSE interval '0' END
		  FROM generate_series(1, 2503) AS i`)
	p := s.pruner(time.Hour)
	if gone := p.PruneAll(t.Context()); gone != 0 {
		t.Errorf("%d requests went of none", gone)
	}
	if n := pgtest.One[int](t, s.pool, `SELECT count(*) FROM outbox_malformed`); n != 3 {
		t.Errorf("%d are left, want 3", n)
	}
}

// TestExpiredSaysWhatWas: how many attempts there were and what the last one brought;
// "before it was sent" is said only of what no call was made for. That the attempts have created nothing
// is said where it is known; where an earlier attempt may have created it, that is found out first.
func TestExpiredSaysWhatWas(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	refused := flex.Outcome{Kind: flex.Refused, HTTPStatus: 429, TwilioCode: 20429, ErrorKind: "http_429", Message: "too many requests"}
	n := uint64(0)
	for _, tt := range []struct {
		id       string
		attempts []record // of an attempt each; the zero record: released
		set      string
		want     string
	}{
		{"never", nil, ``, "expires_at passed before it was sent"},
		{"put-back", []record{{}}, ``, "expires_at passed before it was sent"},
		{"once", []record{{Told: refused}}, ``, "expires_at passed after one attempt; the last one: refused, too many requests; its attempts are proved to have created nothing"},
		{"twice, then released", []record{{Told: refused}, {Told: refused}, {}}, ``, "expires_at passed after 2 attempts; the last one: refused, too many requests; its attempts are proved to have created nothing"},
		{"without a word", []record{{Told: flex.Outcome{Kind: flex.Refused, ErrorKind: "dial"}}}, ``, "expires_at passed after one attempt; the last one: refused; its attempts are proved to have created nothing"},
		{"undecided", []record{{Told: refused}}, `, undecided = true`, "expires_at passed after one attempt; the last one: refused, too many requests"},
	} {
		n++
		if _, err := s.Add(t.Context(), event(tt.id, n)); err != nil {
			t.Fatal(err)
		}
		for _, a := range tt.attempts {
			pgtest.Exec(t, s.pool, `UPDATE outbox SET due_at = now() WHERE state = 'pending'`)
			c, err := s.claim(t.Context(), 2) // of one permit those tried again have no half
			if err != nil || len(c.leases) != 1 {
				t.Fatal(tt.id, c, err)
			}
			l := c.leases[0]
			r := attempt.Unsent(l)
			if a.Told.ErrorKind != "" {
				r = told(l, a.Told)
			}
			if _, err := s.record(t.Context(), r); err != nil {
				t.Fatal(err)
			}
		}
		pgtest.Exec(t, s.pool, `UPDATE outbox SET expires_at = now()`+tt.set+` WHERE request_id = $1`, tt.id)
		if moved, err := s.expire(t.Context()); err != nil || moved != 1 {
			t.Fatal(tt.id, moved, err)
		}
		r := s.row(t, tt.id)
		if pgtest.Deref(r.ErrorMessage) != tt.want || (r.State == request.Uncertain) != (tt.id == "undecided") || r.State != request.Expired && tt.id != "undecided" || pgtest.Deref(r.ErrorKind) != "expired" {
			t.Errorf("%s: %s %s, want %s", tt.id, r.State, pgtest.Deref(r.ErrorMessage), tt.want)
		}
		if tt.id == "once" && (pgtest.Deref(r.HTTPStatus) != 429 || pgtest.Deref(r.TwilioCode) != 20429) {
			t.Errorf("%s: %+v, want the status and code of the last attempt", tt.id, r)
		}
	}
}

// TestLapseSkipsRecordedRow: a sweep that has seen the lease over finds
// that it was recorded meanwhile (riverqueue/river#1302).
func TestLapseSkipsRecordedRow(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	id := mustAdd(t, s, "a", 1)[0]
	l := mustClaim(t, s, 1)[0]
	pgtest.Exec(t, s.pool, `UPDATE outbox SET leased_until = clock_timestamp() - interval '1 second'`)
	// Another transaction has the row while the sweep looks at it, and records.
	tx, err := s.pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(context.WithoutCancel(t.Context()))
	if _, err := tx.Exec(t.Context(), `UPDATE outbox SET state = 'created', leased_by = NULL, leased_until = NULL, interaction_sid = 'KD00000000000000000000000000000001', resolved_by = 'response', settled_at = now() WHERE id = $1`, l.ID); err != nil {
		t.Fatal(err)
	}
	if n, err := s.lapse(t.Context()); err != nil || n != 0 {
		t.Errorf("while it was recorded %d lapsed: %v", n, err)
	}
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n, err := s.lapse(t.Context()); err != nil || n != 0 || s.row(t, id).State != request.Created {
		t.Errorf("%d lapsed, and it is %s: %v", n, s.row(t, id).State, err)
	}
}

// TestPruneInBatches: more old rows than a batch are removed in one
// round, by one replica at a time; those unpublished stay (svix/svix-webhooks#1933).
// Ten million are cmd/bench's.
func TestPruneInBatches(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	ids := mustAdd(t, s, "a", 3*upkeep.PruneBatch/2, faulty("no"))
	pgtest.Exec(t, s.pool, `UPDATE outbox SET settled_at = now() - interval '2 days', published_at = now() WHERE request_id <> $1`, ids[0])
	other, err := s.pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := other.Exec(t.Context(), upkeep.PruneLock); err != nil {
		t.Fatal(err)
	}
	p := s.pruner(time.Hour)
	if n := p.PruneAll(t.Context()); n != 0 {
		t.Errorf("%d removed while another replica prunes", n)
	}
	if err := other.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := p.PruneAll(t.Context()); n != len(ids)-1 || p.Counters.Pruned.Load() != int64(n) {
		t.Errorf("%d removed", n)
	}
	if n := pgtest.One[int](t, s.pool, `SELECT count(*) FROM outbox`); n != 1 {
		t.Errorf("%d rows are left, want the one that is not published", n)
	}
}

// TestPruneBesideAnotherFleet: a fleet whose tables are in another schema of the same database removes what is old at
// the same time.
func TestPruneBesideAnotherFleet(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	ids := mustAdd(t, s, "a", 10, faulty("no"))
	pgtest.Exec(t, s.pool, `UPDATE outbox SET settled_at = now() - interval '2 days', published_at = now()`)
	other, err := s.pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer other.Rollback(context.WithoutCancel(t.Context()))
	for _, sql := range []string{`CREATE SCHEMA second`, `SET LOCAL search_path = second`, `CREATE TABLE outbox ()`, upkeep.PruneLock} {
		if _, err := other.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	if n := s.pruner(time.Hour).PruneAll(t.Context()); n != len(ids) {
		t.Errorf("%d removed while another fleet prunes, want %d", n, len(ids))
	}
}
