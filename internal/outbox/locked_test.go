package outbox

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"flexworker/internal/database"
	"flexworker/internal/flex"
	"flexworker/internal/loop"
	"flexworker/internal/outbox/lookup"
	"flexworker/internal/outbox/request"
	"flexworker/internal/outbox/results"
	"flexworker/internal/testing/expect"
	"flexworker/internal/testing/pgtest"
)

// Whoever holds a row of ours locked (a person in psql, a report with FOR UPDATE) has to do with
// that row alone: everything else goes on, and that one follows once they let go.

// TestAddLocked: of many messages that come together, those alone wait whose row somebody
// holds, however they hold it.
func TestAddLocked(t *testing.T) {
	t.Parallel()
	settle := func(t *testing.T, s *Store) {
		t.Helper()
		mustAdd(t, s, "old", 1, faulty("is missing"))
	}
	asked := func(id string, sequence uint64) request.Event { return event(id, sequence, faulty("is missing")) }
	other := event("old-1", 900, func(e *request.Event) { e.Request = []byte(`{"request_id":"old-1","channel":{"type":"web"}}`) })
	kept := func(e request.Event) func(*testing.T, *Store) {
		return func(t *testing.T, s *Store) {
			settle(t, s)
			if _, err := s.addBatch(t.Context(), []request.Event{e}); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, tt := range []struct {
		name, hold  string
		before      func(*testing.T, *Store)
		one         request.Event
		while, then Added
	}{
		{"a settled row, asked again", `SELECT FROM outbox WHERE request_id = 'old-1' FOR UPDATE`, settle, asked("old-1", 900), locked, Repeated},
		{"a settled row, and another request", `SELECT FROM outbox WHERE request_id = 'old-1' FOR UPDATE`, settle, other, Conflicting, Conflicting},
		{"a row that is being changed, asked again", `UPDATE outbox SET error_message = 'x'`, settle, asked("old-1", 900), Repeated, Repeated},
		{"a row that is being changed, and another request", `UPDATE outbox SET error_message = 'x'`, settle, other, Conflicting, Conflicting},
		{"a row that gets another id", `UPDATE outbox SET request_id = 'x'`, settle, asked("old-1", 900), locked, Rejected},
		{"a row that is being removed", `DELETE FROM outbox`, settle, asked("old-1", 900), locked, Rejected},
		{"a row that is being written", `INSERT INTO outbox (request_id, source, state, request, due_at, stream_sequence, stream_time) VALUES ('old-1', 'crm', 'pending', '{}', now(), 1, now())`,
			func(*testing.T, *Store) {}, other, locked, Conflicting},
		{"a repeat that is being changed", `UPDATE outbox_repeats SET traceparent = 'x'`, kept(asked("old-1", 900)), asked("old-1", 900), Repeated, Repeated},
		{"a conflict that is being changed", `UPDATE outbox_malformed SET error = 'x'`, kept(other), other, Conflicting, Conflicting},
		{"a repeat that is being written", `INSERT INTO outbox_repeats (outbox_id, source, stream_sequence, stream_time) VALUES (1, 'crm', 900, '2026-11-22 09:15:00.123456Z')`,
			settle, asked("old-1", 900), locked, Repeated},
		{"a conflict that is being written", `INSERT INTO outbox_malformed (kind, stream, stream_sequence, stream_time, subject, source, headers, raw, error)
			VALUES ('malformed', 'REQUESTS', 900, '2026-11-22 09:15:00.123456Z', '', '', '{}', '', '')`, settle, other, locked, Redelivered},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := newStore(t)
			tt.before(t, s)
			_, release := holding(t, s, tt.hold)
			var together []request.Event
			for i := range 40 {
				together = append(together, event(fmt.Sprint("new-", i), uint64(i+100)))
				if i == 20 {
					together = append(together, tt.one)
				}
			}
			answers, err := s.addBatch(t.Context(), together)
			if err != nil {
				t.Fatal(err)
			}
			for i, a := range answers {
				if want := map[bool]Added{true: tt.while, false: Accepted}[i == 21]; a != want {
					t.Errorf("%s is %v, want %v", together[i].RequestID, a, want)
				}
			}
			if tt.while == locked {
				// It is told so, as often as it tries, and once told it tries apart from the others.
				for range 2 {
					if _, err := s.Add(t.Context(), tt.one); !errors.Is(err, ErrLocked) || Away(err) {
						t.Errorf("it is answered %v, which counts as away: %v", err, Away(err))
					}
				}
				if !s.locked.has(tt.one.RequestID) {
					t.Error("its next try waits with the others")
				}
			}
			release()
			if added, err := s.Add(t.Context(), tt.one); err != nil || added != tt.then {
				t.Errorf("it is %v (%v), want %v", added, err, tt.then)
			}
			if s.locked.has(tt.one.RequestID) {
				t.Error("it is still kept apart")
			}
			pgtest.CheckOutbox(t, s.pool)
		})
	}
}

// TestAddMalformedLocked: the same of messages that make no request.
func TestAddMalformedLocked(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	all := make([]request.Malformed, 5)
	for i := range all {
		all[i] = request.Malformed{Message: event("", uint64(i+1)).Message, Err: "not JSON"}
	}
	_, release := holding(t, s, `INSERT INTO outbox_malformed (kind, stream, stream_sequence, stream_time, subject, source, headers, raw, error)
		VALUES ('malformed', 'REQUESTS', 3, $1, '', '', '{}', '', '')`, all[2].Time)
	own, err := s.Messages.KeepMalformed(t.Context(), all)
	if err != nil {
		t.Fatal(err)
	}
	for i, err := range own {
		if errors.Is(err, ErrLocked) != (i == 2) || i != 2 && err != nil {
			t.Errorf("%d: %v", i, err)
		}
	}
	if n := pgtest.One[int](t, s.pool, `SELECT count(*) FROM outbox_malformed`); n != 4 {
		t.Errorf("%d are kept", n)
	}
	release()
	if err := s.AddMalformed(t.Context(), all[2]); err != nil {
		t.Error(err)
	}
}

// TestTableLocked: outbox locked as a whole is nobody's own trouble.
func TestTableLocked(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	mustAdd(t, s, "a", 2)
	leases := mustClaim(t, s, 2)
	holding(t, s, `LOCK TABLE outbox IN SHARE MODE`)
	limited := s.with(t, "lock_timeout", "50ms")
	if _, err := limited.Add(t.Context(), event("b", 10)); !Away(err) {
		t.Errorf("add: %v", err)
	}
	if _, err := limited.record(t.Context(), record{Lease: leases[0], Outcome: "created", Told: wasCreated(1), Move: request.Move{To: request.Created}}); !Away(err) {
		t.Errorf("record: %v", err)
	}
}

// TestBesideTableLocked: while somebody holds outbox_malformed or outbox_repeats, a batch of messages goes on
// without those that need the table. A message that may have been answered before needs outbox_malformed, unless it
// is the very one that made its request. What may be leased is.
func TestBesideTableLocked(t *testing.T) {
	t.Parallel()
	// A busy machine may take a minute until it comes to a test: the stream's clock is ahead.
	now := func(id string, sequence uint64, change ...func(*request.Event)) request.Event {
		return event(id, sequence, append(change, func(e *request.Event) { e.Time = time.Now().Add(time.Hour) })...)
	}
	another := func(e *request.Event) { e.Request = []byte(`{"channel":{"type":"web"}}`) }
	first := now("first", 1)
	for _, tt := range []struct {
		name  string
		event request.Event
		// While nobody holds a table, outbox_malformed, outbox_repeats.
		free, malformed, repeats Added
	}{
		{"new", now("new", 10), Accepted, Accepted, Accepted},
		{"new, with faults", now("faulty", 11, faulty("is missing")), Rejected, Rejected, Rejected},
		{"new, of long ago", event("old", 12, func(e *request.Event) { e.Time = time.Now().Add(-time.Hour) }), Accepted, waiting, Accepted},
		{"delivered again", first, Redelivered, Redelivered, Redelivered},
		{"asked again", now("first", 13), Repeated, waiting, waiting},
		{"another request", now("first", 14, another), Conflicting, waiting, Conflicting},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			for table, want := range map[string]Added{"": tt.free, "outbox_malformed": tt.malformed, "outbox_repeats": tt.repeats} {
				s := newStore(t)
				if _, err := s.addBatch(t.Context(), []request.Event{first}); err != nil {
					t.Fatal(err)
				}
				release, session := func() {}, ""
				if table != "" {
					var pid uint32
					pid, release = holding(t, s, `LOCK TABLE `+table+` IN ACCESS EXCLUSIVE MODE`)
					session = fmt.Sprintf("pid %d (", pid)
				}
				d := &Dispatcher{Store: s.with(t, "lock_timeout", "50ms")}
				for range 2 { // at first it finds out that the table is held, then it knows
					together := []request.Event{now(fmt.Sprint("other-", time.Now().UnixNano()), 20), tt.event, now(fmt.Sprint("more-", time.Now().UnixNano()), 21)}
					leased := 0
					answers, err := d.Store.addLeasing(t.Context(), together, 5, func(l []Lease, _ bool) { leased = len(l) })
					if err != nil {
						t.Fatal(err)
					}
					if answers[0] != Accepted || answers[2] != Accepted || leased < 2 {
						t.Errorf("%q held: the others are %v and %v, %d leased", table, answers[0], answers[2], leased)
					}
					if again := want == Accepted || want == Rejected; answers[1] != want && (!again || answers[1] != Redelivered) {
						t.Errorf("%q held: it is %v, want %v", table, answers[1], want)
					}
				}
				if want == waiting {
					expect.Eventually(t, func() error { // a session is named that holds a lock for a moment
						if _, err := d.Store.Add(t.Context(), tt.event); !errors.Is(err, ErrTableLocked) || Away(err) {
							t.Errorf("%q held: it hears %v", table, err)
						}
						if why := d.Stalled(1); !strings.Contains(why, " could be kept for ") || !strings.Contains(why, session) {
							return fmt.Errorf("it says %q", why)
						}
						return nil
					})
				} else if why := d.Stalled(1); why != "" {
					t.Errorf("%q held: it says %q", table, why)
				}
				release()
				if added, err := d.Store.Add(t.Context(), tt.event); err != nil || want == waiting && added != tt.free {
					t.Errorf("%q was held: it is %v (%v), want %v", table, added, err, tt.free)
				}
				if why := d.Stalled(1); why != "" {
					t.Errorf("%q was held: it says %q", table, why)
				}
				pgtest.CheckOutbox(t, s.pool)
			}
		})
	}
}

// TestMalformedTableLocked: what makes no request waits for its table, and is kept once that is free.
func TestMalformedTableLocked(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"SHARE", "ACCESS EXCLUSIVE"} {
		s := newStore(t)
		bad := request.Malformed{Message: event("", 11).Message, Err: "not JSON"}
		pid, release := holding(t, s, `LOCK TABLE outbox_malformed IN `+mode+` MODE`)
		d := &Dispatcher{Store: s.with(t, "lock_timeout", "50ms")}
		expect.Eventually(t, func() error {
			if err := d.Store.AddMalformed(t.Context(), bad); !errors.Is(err, ErrTableLocked) || Away(err) {
				t.Errorf("%s: it hears %v", mode, err)
			}
			if why := d.Stalled(1); !strings.HasPrefix(why, "no malformed message or conflict could be kept for ") || !strings.Contains(why, fmt.Sprintf("pid %d (", pid)) {
				return fmt.Errorf("it says %q", why)
			}
			return nil
		})
		release()
		if err := d.Store.AddMalformed(t.Context(), bad); err != nil || d.Stalled(1) != "" {
			t.Errorf("%s: afterwards %v, %q", mode, err, d.Stalled(1))
		}
		if n := pgtest.One[int](t, s.pool, `SELECT count(*) FROM outbox_malformed`); n != 1 {
			t.Errorf("%s: %d are kept", mode, n)
		}
	}
}

func wasCreated(n int) flex.Outcome {
	return flex.Outcome{Kind: flex.Created, InteractionSID: fmt.Sprintf("KD%032x", n), HTTPStatus: 201, Response: []byte(`{}`), Took: time.Second}
}

// TestMarkLocked: the others of a batch are marked, or they would be published for ever.
func TestMarkLocked(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	mustAdd(t, s, "a", 3, faulty("is missing"))
	if _, err := s.addBatch(t.Context(), []request.Event{event("a-1", 50, faulty("is missing")), event("a-1", 51, faulty("is missing"))}); err != nil {
		t.Fatal(err)
	}
	for n := range uint64(2) {
		if err := s.AddMalformed(t.Context(), request.Malformed{Message: event("", 60+n).Message, Err: "not JSON"}); err != nil {
			t.Fatal(err)
		}
	}
	pgtest.Exec(t, s.pool, `UPDATE outbox SET settled_at = settled_at - interval '1 minute'`)
	answers, err := s.Results.Unpublished(t.Context(), &results.Cursor{})
	if err != nil || len(answers) != 7 {
		t.Fatalf("%d answers, %v", len(answers), err)
	}
	_, release := holding(t, s, `
		WITH a AS (SELECT FROM outbox WHERE request_id = 'a-2' FOR UPDATE),
		b AS (SELECT FROM outbox_repeats WHERE stream_sequence = 50 FOR UPDATE),
		c AS (SELECT FROM outbox_malformed WHERE stream_sequence = 60 FOR UPDATE)
		SELECT FROM a, b, c`)
	const left = `SELECT (SELECT count(*) FROM outbox WHERE published_at IS NULL) || ' ' || (SELECT count(*) FROM outbox_repeats WHERE published_at IS NULL)
		|| ' ' || (SELECT count(*) FROM outbox_malformed WHERE published_at IS NULL)`
	for range 2 { // the second time it does not wait
		if err := s.Results.MarkPublished(t.Context(), slices.Clone(answers)); err != nil {
			t.Fatal(err)
		}
		if got := pgtest.One[string](t, s.pool, left); got != "1 1 1" {
			t.Errorf("left: %s", got)
		}
	}
	release()
	if err := s.Results.MarkPublished(t.Context(), answers); err != nil {
		t.Fatal(err)
	}
	if got := pgtest.One[string](t, s.pool, left); got != "0 0 0" {
		t.Errorf("left: %s", got)
	}
}

// TestMarkBesideRowAndTableLocked: while somebody holds a row, and somebody else a table, all answers are marked but the one
// of that row and those of that table, and it is said that these are not.
func TestMarkBesideRowAndTableLocked(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	answersOfEachKind(t, s, "crm", 1, 1000)
	mustAdd(t, s, "more", 2, faulty("no"))
	age(t, s)
	answers, err := s.Results.Unpublished(t.Context(), &results.Cursor{})
	if err != nil {
		t.Fatal(err)
	}
	holding(t, s, `SELECT FROM outbox WHERE request_id = 'more-1' FOR UPDATE`)
	holding(t, s, `LOCK TABLE outbox_malformed IN SHARE MODE`)
	s = s.with(t, "lock_timeout", "50ms")
	for range 2 { // the second time it knows of locked rows
		if err := s.Results.MarkPublished(t.Context(), slices.Clone(answers)); err == nil {
			t.Error("nothing is said of the table that is held")
		}
		if left := pgtest.One[string](t, s.pool, `SELECT string_agg(request_id, ' ') FROM outbox WHERE published_at IS NULL AND settled_at IS NOT NULL`); left != "more-1" {
			t.Errorf("left in outbox: %s", left)
		}
		if n := pgtest.One[int](t, s.pool, `SELECT count(*) FROM outbox_repeats WHERE published_at IS NULL`); n != 0 {
			t.Errorf("%d repeats are not marked", n)
		}
	}
}

// TestReclaimLocked: what is locked is asked for until it is reclaimed; the others are at once.
func TestReclaimLocked(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	mustAdd(t, s, "a", 3)
	mustClaim(t, s, 3)
	s.inDoubt.tokens = map[string]time.Time{*s.row(t, "a-1").LeasedBy: {}}
	_, release := holding(t, s, `SELECT FROM outbox WHERE request_id = 'a-2' FOR UPDATE`)
	d := &Dispatcher{Store: s, Log: logger(t), Counters: &Counters{}}
	for range 2 {
		d.reclaim(t.Context(), 0)
		if a, b := s.row(t, "a-1").State, s.row(t, "a-2").State; a != request.Pending || b != request.Sending || !s.inDoubt.any() {
			t.Errorf("%s, %s, asked for again: %v", a, b, s.inDoubt.any())
		}
	}
	release()
	d.reclaim(t.Context(), 0)
	if a := s.row(t, "a-2").State; a != request.Pending || s.inDoubt.any() {
		t.Errorf("%s, asked for again: %v", a, s.inDoubt.any())
	}
	pgtest.CheckOutbox(t, s.pool)
}

// TestPruneLocked: what somebody holds stays, and what is behind it goes.
func TestPruneLocked(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	mustAdd(t, s, "a", 3, faulty("is missing"))
	for n := range uint64(3) {
		if err := s.AddMalformed(t.Context(), request.Malformed{Message: event("", 60+n).Message, Err: "not JSON"}); err != nil {
			t.Fatal(err)
		}
	}
	for _, table := range []string{"outbox", "outbox_malformed"} {
		pgtest.Exec(t, s.pool, `UPDATE `+table+` SET published_at = now() - interval '2 hours', stream_time = now() - interval '2 hours' - id * interval '1 s'`)
	}
	pgtest.Exec(t, s.pool, `UPDATE outbox SET settled_at = now() - interval '2 hours' + id * interval '1 s'`)
	_, release := holding(t, s, `
		WITH a AS (SELECT FROM outbox WHERE request_id = 'a-2' FOR UPDATE), b AS (SELECT FROM outbox_malformed WHERE stream_sequence = 61 FOR UPDATE)
		SELECT FROM a, b`)
	p := s.pruner(time.Hour)
	const left = `SELECT (SELECT count(*) FROM outbox) || ' ' || (SELECT count(*) FROM outbox_malformed)`
	p.PruneAll(t.Context())
	if got := pgtest.One[string](t, s.pool, left); got != "1 1" {
		t.Errorf("left: %s", got)
	}
	release()
	p.PruneAll(t.Context())
	if got := pgtest.One[string](t, s.pool, left); got != "0 0" {
		t.Errorf("left: %s", got)
	}
}

// TestLookupsLocked: whoever is due longest, and locked, does not keep those of other times or
// workspaces from being looked up.
func TestLookupsLocked(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	n := 0
	mustAdd(t, s, "u", 3, func(e *request.Event) { n++; e.LookupKey = fmt.Sprintf("%032x", n) })
	for _, l := range mustClaim(t, s, 3) {
		if _, err := s.record(t.Context(), told(l, flex.Outcome{ErrorKind: "timeout"})); err != nil {
			t.Fatal(err)
		}
	}
	pgtest.Exec(t, s.pool, `UPDATE outbox SET due_at = now() - interval '1 minute' + id * interval '1 s', uncertain_since = now() - (3 - id) * interval '2 minutes'`)
	_, release := holding(t, s, `SELECT FROM outbox WHERE request_id = 'u-1' FOR UPDATE`)
	var keys []string
	r := &lookup.Resolver{Requests: s.Lookups, Results: s.Results, Due: s.Due, Flex: searched{keys: &keys}, Policy: testPolicy, Log: logger(t), Counters: &lookup.Counters{}}
	turns := func(n int) {
		t.Helper()
		for range n {
			pgtest.Exec(t, s.pool, `UPDATE outbox_gate SET lookup_at = '-infinity'`)
			if _, err := r.Round(t.Context()); err != nil {
				t.Fatal(err)
			}
			r.Ended.Wait()
		}
	}
	turns(4)
	for i, want := range map[int]bool{1: false, 2: true, 3: true} {
		if got := slices.Contains(keys, fmt.Sprintf("%032x", i)); got != want {
			t.Errorf("u-%d was looked up: %v", i, got)
		}
	}
	release()
	turns(2)
	if !slices.Contains(keys, fmt.Sprintf("%032x", 1)) {
		t.Error("u-1 was never looked up")
	}
}

// TestLockedIDsExpire: an id whose message another process has stored is not remembered for ever.
func TestLockedIDsExpire(t *testing.T) {
	t.Parallel()
	var l lockedIDs
	now := time.Now()
	l.note("a", now)
	l.note("b", now.Add(lockedSpan))
	if !l.has("a") || !l.has("b") {
		t.Error("forgotten too soon")
	}
	l.note("c", now.Add(lockedSpan+time.Second))
	if l.has("a") || !l.has("b") || !l.has("c") {
		t.Error("one that nobody came back for is remembered")
	}
}

// TestLoopsBesideTableLocked: while somebody holds outbox_malformed or outbox_repeats the poll wakes the loops all the
// same, and all answers go out but those that the table has. Held against writes alone these go out, too, unmarked.
func TestLoopsBesideTableLocked(t *testing.T) {
	t.Parallel()
	kinds := map[string]results.AnswerKind{"": -1, "outbox_malformed": results.Malformation, "outbox_repeats": results.Repetition}
	for _, tt := range []struct{ table, mode string }{
		{"", ""}, {"outbox_malformed", "ACCESS EXCLUSIVE"}, {"outbox_repeats", "ACCESS EXCLUSIVE"}, {"outbox_malformed", "SHARE"}, {"outbox_repeats", "SHARE"},
	} {
		t.Run(tt.table+" "+tt.mode, func(t *testing.T) {
			t.Parallel()
			s := newStore(t)
			answersOfEachKind(t, s, "crm", 1, 1000)
			age(t, s)
			mustAdd(t, s, "lapses", 1)
			mustClaim(t, s, 1)
			pgtest.Exec(t, s.pool, `UPDATE outbox SET leased_until = clock_timestamp() - interval '1 minute' WHERE state = 'sending'`)
			if tt.table != "" {
				holding(t, s, `LOCK TABLE `+tt.table+` IN `+tt.mode+` MODE`)
			}
			s = s.with(t, "lock_timeout", "50ms")
			u := s.upkeep()
			for range 2 { // at first it finds out that the table is held, then it knows
				if err := u.PollOnce(t.Context()); err != nil {
					t.Fatal(err)
				}
				for name, l := range map[string]loop.Signal{"overdue": u.Overdue, "left": u.Results.Left, "asked": u.Results.Asked} {
					select {
					case <-l:
					default:
						t.Errorf("%s: not woken", name)
					}
				}
			}
			answers, err := s.Results.Unpublished(t.Context(), &results.Cursor{})
			held := kinds[tt.table]
			unread := held
			if tt.mode != "ACCESS EXCLUSIVE" {
				unread = -1
			}
			if (err != nil) != (unread >= 0) || err != nil && !database.IsLockTrouble(err) {
				t.Errorf("read with %v", err)
			}
			got := map[results.AnswerKind]int{}
			for _, a := range answers {
				got[a.Kind]++
			}
			for kind := results.Final; kind <= results.Malformation; kind++ {
				if want := kind != unread; (got[kind] > 0) != want {
					t.Errorf("%d answers of kind %d, want some: %t", got[kind], kind, want)
				}
			}
			if err := s.Results.MarkPublished(t.Context(), answers); (err != nil) != (tt.mode == "SHARE") {
				t.Errorf("marked with %v", err)
			}
			again, _ := s.Results.Unpublished(t.Context(), &results.Cursor{})
			for _, a := range again {
				if tt.mode != "SHARE" || a.Kind == results.Final || a.Kind == results.Announcement {
					t.Errorf("an answer of kind %d is not marked", a.Kind)
				}
			}
		})
	}
}

// hurried is a context of which always little is left, and which does not end: how long the machine takes does not matter.
type hurried struct{ context.Context }

func (hurried) Deadline() (time.Time, bool) { return time.Now().Add(database.WriteLimit / 4), true }

// TestAddManyLocked: where so many ids are held that the time of a write does not suffice to find each, what is left
// counts as held, too. The write succeeds, and each of them is tried apart later; what can be inserted at once is.
func TestAddManyLocked(t *testing.T) {
	t.Parallel()
	const held = 150 // each that is found alone takes database.NoPatience at least
	s := newStore(t)
	events := some("e", held+2)
	_, release := holding(t, s, `INSERT INTO outbox (request_id, source, state, request, due_at, stream_sequence, stream_time)
		SELECT 'e-' || n, 'crm', 'pending', '{}', now(), n, now() FROM generate_series(2, $1::integer + 1) n`, held)
	add := func(events ...request.Event) []Added {
		t.Helper()
		answers, which := make([]Added, len(events)), make([]int, len(events))
		for i := range which {
			which[i] = i
		}
		if err := s.insertApart(hurried{t.Context()}, events, which, map[string]spot{}, answers, &results.Tables{}); err != nil {
			t.Fatal(err)
		}
		return answers
	}
	for i, a := range add(events...) {
		if a != locked {
			t.Errorf("event %d was %v", i, a)
		}
	}
	add(events[0])
	if n := pgtest.One[int](t, s.pool, `SELECT count(*) FROM outbox`); n != 1 {
		t.Errorf("%d are inserted", n)
	}
	release()
	for i, a := range add(events...) {
		if a == locked {
			t.Errorf("event %d is locked", i)
		}
	}
}
