package outbox

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"flexworker/internal/flex"
	"flexworker/internal/outbox/attempt"
	"flexworker/internal/outbox/lookup"
	"flexworker/internal/outbox/request"
	"flexworker/internal/outbox/results"
	"flexworker/internal/testing/expect"
	"flexworker/internal/testing/pgtest"
)

// What a finding is about is the attempt, whoever asks: these tests are about what a row
// keeps of its attempts, and what follows from that.

// taskRouter is a TaskRouter and a Flex of the test's own. Nil functions know nothing.
type taskRouter struct {
	search func(ctx context.Context, workspace, attribute string, keys []string) ([]flex.Task, error)
	log    func(keys []string, from, to time.Time) ([]flex.Task, bool, error)
}

func (r taskRouter) SearchTasks(ctx context.Context, workspace, attribute string, keys []string) ([]flex.Task, error) {
	if r.search == nil {
		return nil, nil
	}
	return r.search(ctx, workspace, attribute, keys)
}

func (r taskRouter) Events(_ context.Context, _, _ string, keys []string, from, to time.Time) ([]flex.Task, bool, error) {
	if r.log == nil {
		return nil, true, nil
	}
	return r.log(keys, from, to)
}

func (taskRouter) Fetch(_ context.Context, sid string) flex.Outcome {
	return flex.Outcome{Kind: flex.Created, InteractionSID: sid}
}

// logOf is an event log of some tasks; one without a time is there whenever it is asked for.
func logOf(tasks ...flex.Task) func([]string, time.Time, time.Time) ([]flex.Task, bool, error) {
	return func(keys []string, from, to time.Time) (shown []flex.Task, _ bool, _ error) {
		for _, t := range tasks {
			if slices.Contains(keys, t.Key) && !t.DateCreated.Before(from) && !t.DateCreated.After(to) {
				shown = append(shown, t)
			}
		}
		return shown, true, nil
	}
}

func resolver(t *testing.T, s *Store, f lookup.Finder, change ...func(*request.Policy)) *lookup.Resolver {
	p := testPolicy
	p.MaxAttempts, p.Settle = 10, time.Minute
	for _, c := range change {
		c(&p)
	}
	return &lookup.Resolver{Requests: s.Lookups, Results: s.Results, Due: s.Due, Flex: f, Policy: p, Log: logger(t), Counters: &lookup.Counters{}}
}

// lookUp has what is due looked up, once.
func lookUp(t *testing.T, r *lookup.Resolver) {
	t.Helper()
	pgtest.Exec(t, r.Requests.Pool, `UPDATE outbox_gate SET lookup_at = '-infinity'`)
	pgtest.Exec(t, r.Requests.Pool, `UPDATE outbox SET due_at = clock_timestamp() WHERE state = 'uncertain' AND due_at IS NOT NULL`)
	for {
		waiting, err := r.Round(t.Context())
		r.Ended.Wait()
		if err != nil {
			t.Fatal(err)
		}
		if !waiting {
			return
		}
		pgtest.Exec(t, r.Requests.Pool, `UPDATE outbox_gate SET lookup_at = '-infinity'`)
	}
}

// timeout is an attempt whose outcome is not known.
func (s *Store) timeout(t *testing.T, change ...func(*flex.Outcome)) Lease {
	t.Helper()
	pgtest.Exec(t, s.pool, `UPDATE outbox SET due_at = clock_timestamp() WHERE state = 'pending'`)
	var leases []Lease
	for len(leases) == 0 { // now and then half of the one permit is kept for those tried again
		c, err := s.claim(t.Context(), 1)
		if err != nil {
			t.Fatal(err)
		}
		leases = c.leases
	}
	l := leases[0]
	o := flex.Outcome{ErrorKind: "timeout", Took: time.Second}
	for _, c := range change {
		c(&o)
	}
	if _, err := s.record(t.Context(), attempt.Decide(testPolicy, l, o, 0)); err != nil {
		t.Fatal(err)
	}
	return l
}

// grow makes what was attempted so long ago.
func (s *Store) grow(t *testing.T, by time.Duration) {
	t.Helper()
	pgtest.Exec(t, s.pool, `UPDATE outbox SET attempt_began_at = attempt_began_at - $1::interval, uncertain_since = uncertain_since - $1::interval,
		received_at = received_at - $1::interval, for_person_since = for_person_since - $1::interval`, by)
}

// TestLookupKnowsTheAttempt: who looks has a FLEX_TIMEOUT of 2 s, who sent had one of a
// minute. The log is read from when the attempt began, and the list counts for five
// minutes from then: the task may have been created, and have ended, in its first moment.
func TestLookupKnowsTheAttempt(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	sender := NewStore(s.pool, "sender", time.Minute, "interaction_request")
	id := mustAdd(t, s, "long", 1, keyed)[0]
	mustClaim(t, sender, 1)
	const ago = 6 * time.Minute // began; its lease, a minute and 5 s, is over since
	pgtest.Exec(t, s.pool, `UPDATE outbox SET attempt_began_at = attempt_began_at - $1::interval, leased_until = leased_until - $1::interval, received_at = received_at - $1::interval`, ago)
	if n, err := s.lapse(t.Context()); err != nil || n != 1 {
		t.Fatal(n, err)
	}
	began := pgtest.One[time.Time](t, s.pool, `SELECT attempt_began_at FROM outbox`)
	task := flex.Task{TaskSID: "WT1", Key: flex.LookupKey(id), InteractionSID: sidA, DateCreated: began.Add(400 * time.Millisecond)}
	lookUp(t, resolver(t, s, taskRouter{log: logOf(task)}))
	if r := s.row(t, id); r.State != request.Created || pgtest.Deref(r.InteractionSID) != sidA {
		t.Errorf("%s: %s; the task was created in the first moment of the attempt", r.State, pgtest.Deref(r.ErrorMessage))
	}
}

// TestLogAloneNeedsALaterCreation: later than five minutes after the attempt absence rests
// on the log alone. It counts once the log shows a task that was created later.
func TestLogAloneNeedsALaterCreation(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		later, other, shown bool // there is a later creation; of another workspace; the log shows it
		age                 time.Duration
		want                request.State
	}{
		"none is known":                        {age: 6 * time.Minute, want: request.Uncertain},
		"it is in the log":                     {later: true, shown: true, age: 6 * time.Minute, want: request.Pending},
		"the log lags":                         {later: true, age: 6 * time.Minute, want: request.Uncertain},
		"it is of another workspace":           {later: true, other: true, shown: true, age: 6 * time.Minute, want: request.Uncertain},
		"within the five minutes, none":        {age: 2 * time.Minute, want: request.Pending},
		"within the five minutes, in the log":  {later: true, shown: true, age: 3 * time.Minute, want: request.Pending},
		"older than the log":                   {later: true, shown: true, age: 31 * 24 * time.Hour, want: request.Uncertain},
		"nearly as old as the log":             {later: true, shown: true, age: 29 * 24 * time.Hour, want: request.Pending},
		"the setup of the test is not at once": {age: 30 * time.Second, want: request.Uncertain},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStore(t)
			id := mustAdd(t, s, "doubt", 1, keyed)[0]
			s.timeout(t)
			s.grow(t, tt.age)
			var shown []flex.Task
			if tt.later {
				later := event("later", 7, keyed, func(e *request.Event) {
					if tt.other {
						e.Request = []byte(`{"routing":{"properties":{"workspace_sid":"WS00000000000000000000000000000009"}}}`)
					}
				})
				settle(t, s, later, good)
				if tt.shown {
					shown = append(shown, flex.Task{TaskSID: "WT7", Key: later.LookupKey, InteractionSID: sidA, DateCreated: time.Now()})
				}
			}
			lookUp(t, resolver(t, s, taskRouter{log: logOf(shown...)}))
			if r := s.row(t, id); r.State != tt.want {
				t.Errorf("%s: %s; want %s", r.State, pgtest.Deref(r.ErrorMessage), tt.want)
			}
		})
	}
}

// TestLongestSettleCounts: of the LOOKUP_SETTLE of living replicas the longest counts, and
// nothing is decided before it is over: neither absence, nor by UNCERTAIN_POLICY what Flex
// answered without a sid, nor what has no task.
func TestLongestSettleCounts(t *testing.T) {
	t.Parallel()
	answered := func(o *flex.Outcome) { o.Answered, o.ErrorKind = true, "no_sid" }
	for name, tt := range map[string]struct {
		seen   time.Duration // ago, of the replica with two minutes: one that lives is seen some seconds from now, so that it does to the end
		change func(*request.Event)
		sent   func(*flex.Outcome)
		want   request.State // after 90 s
	}{
		"alive":          {-10 * time.Second, keyed, func(*flex.Outcome) {}, request.Uncertain},
		"alive, no task": {-10 * time.Second, func(*request.Event) {}, func(*flex.Outcome) {}, request.Uncertain},
		"alive, 2xx":     {-10 * time.Second, keyed, answered, request.Uncertain},
		"dead":           {2 * time.Hour, keyed, func(*flex.Outcome) {}, request.Pending},
		"dead, no task":  {2 * time.Hour, func(*request.Event) {}, func(*flex.Outcome) {}, request.Abandoned},
		"dead, 2xx":      {2 * time.Hour, keyed, answered, request.Abandoned},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStore(t)
			pgtest.Exec(t, s.pool, `INSERT INTO outbox_replicas (name, version, seen_at, state, lookup_settle, flex_timeout, flex_rate, uncertain_policy, retention)
				VALUES ('other', 'v', clock_timestamp() - $1::interval, 'ok', '2 minutes', '15 s', 5, 'hold', '720 h')`, tt.seen)
			id := mustAdd(t, s, "doubt", 1, tt.change)[0]
			s.timeout(t, tt.sent)
			s.grow(t, 90*time.Second)
			lookUp(t, resolver(t, s, taskRouter{}, func(p *request.Policy) { p.Undecided = request.Fail }))
			if r := s.row(t, id); r.State != tt.want || r.State == request.Uncertain && pgtest.One[bool](t, s.pool, `SELECT for_person_since IS NOT NULL FROM outbox`) {
				t.Errorf("%s: %s; want %s", r.State, pgtest.Deref(r.ErrorMessage), tt.want)
			}
		})
	}
}

// TestLateAnswerStopsTheNextAttempt: an attempt lapsed and was taken for absent. What its
// holder then records still counts, while no other attempt has begun: a 2xx without a sid
// says that it may exist, a refusal that it will never be.
func TestLateAnswerStopsTheNextAttempt(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		late flex.Outcome
		want request.State
	}{
		"2xx without a sid": {flex.Outcome{Answered: true, ErrorKind: "no_sid"}, request.Uncertain},
		"created":           {good, request.Created},
		"rejected":          {flex.Outcome{Kind: flex.Rejected, HTTPStatus: 400, ErrorKind: "http_400"}, request.Rejected},
		"a timeout":         {flex.Outcome{ErrorKind: "timeout"}, request.Pending},
		"refused":           {flex.Outcome{Kind: flex.Refused, ErrorKind: "dial"}, request.Pending},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStore(t)
			id := mustAdd(t, s, "late", 1, keyed)[0]
			l := mustClaim(t, s, 1)[0]
			pgtest.Exec(t, s.pool, `UPDATE outbox SET leased_until = leased_until - interval '3 minutes', attempt_began_at = attempt_began_at - interval '3 minutes'`)
			if n, err := s.lapse(t.Context()); err != nil || n != 1 {
				t.Fatal(n, err)
			}
			lookUp(t, resolver(t, s, taskRouter{}))
			if r := s.row(t, id); r.State != request.Pending {
				t.Fatalf("not proved absent: %s, %s", r.State, pgtest.Deref(r.ErrorMessage))
			}
			_, err := s.record(t.Context(), attempt.Decide(testPolicy, l, tt.late, 0))
			if r := s.row(t, id); r.State != tt.want || (err == nil) != (tt.want != request.Pending) || r.Answered != (tt.want == request.Uncertain) {
				t.Errorf("%s, answered %t: %v; want %s", r.State, r.Answered, err, tt.want)
			}
		})
	}
}

// TestUndecidedAttemptIsNotForgotten: UNCERTAIN_POLICY=retry sent it again. Nothing that
// comes later says that it does not exist, before that is found out for all attempts.
func TestUndecidedAttemptIsNotForgotten(t *testing.T) {
	t.Parallel()
	rejected := func(o *flex.Outcome) {
		*o = flex.Outcome{Kind: flex.Rejected, HTTPStatus: 400, TwilioCode: 20001, ErrorKind: "http_400", Message: "Invalid Channel"}
	}
	for name, tt := range map[string]struct {
		policy  request.Undecided
		found   bool
		answers bool // the log can be read
		expires bool // in place of a refusal
		want    request.State
		kind    string
	}{
		"it exists":                     {request.Retry, true, true, false, request.Created, ""},
		"it does not":                   {request.Retry, false, true, false, request.Rejected, "http_400"},
		"nobody knows, retry":           {request.Retry, false, false, false, request.Abandoned, "undecided"},
		"nobody knows, fail":            {request.Fail, false, false, false, request.Abandoned, "undecided"},
		"nobody knows, hold":            {request.Hold, false, false, false, request.Uncertain, "undecided"},
		"expired, it exists":            {request.Retry, true, true, true, request.Created, ""},
		"expired, it does not":          {request.Retry, false, true, true, request.Expired, "expired"},
		"expired, and nobody knows":     {request.Fail, false, false, true, request.Abandoned, "undecided"},
		"expired, a person has to know": {request.Hold, false, false, true, request.Uncertain, "undecided"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStore(t)
			id := mustAdd(t, s, "again", 1, keyed)[0]
			s.timeout(t)
			first := pgtest.One[time.Time](t, s.pool, `SELECT attempt_began_at FROM outbox`)
			s.grow(t, 20*time.Minute)
			pgtest.Exec(t, s.pool, `UPDATE outbox SET lookups = 10`)
			mute := taskRouter{log: func([]string, time.Time, time.Time) ([]flex.Task, bool, error) { return nil, false, nil }}
			lookUp(t, resolver(t, s, mute, func(p *request.Policy) { p.Undecided = request.Retry }))
			if r := s.row(t, id); r.State != request.Pending || !pgtest.One[bool](t, s.pool, `SELECT undecided FROM outbox`) {
				t.Fatalf("%s: %s", r.State, pgtest.Deref(r.ErrorMessage))
			}
			if tt.expires {
				pgtest.Exec(t, s.pool, `UPDATE outbox SET expires_at = clock_timestamp() - interval '1 s'`)
				if n, err := s.expire(t.Context()); err != nil || n != 1 {
					t.Fatal(n, err)
				}
			} else {
				s.timeout(t, rejected)
			}
			if r := s.row(t, id); r.State != request.Uncertain {
				t.Fatalf("%s, though the first attempt may have created it", r.State)
			}
			if began := pgtest.One[time.Time](t, s.pool, `SELECT attempt_began_at + interval '20 minutes' FROM outbox`); !began.Equal(first) {
				t.Errorf("what is looked for began at %v, the first attempt at %v", began, first)
			}
			later := event("later", 7, keyed)
			settle(t, s, later, good)
			shown := []flex.Task{{TaskSID: "WT7", Key: later.LookupKey, InteractionSID: sidA, DateCreated: time.Now()}}
			if tt.found {
				shown = append(shown, flex.Task{TaskSID: "WT1", Key: flex.LookupKey(id), InteractionSID: "KD000000000000000000000000000000f1", DateCreated: first.Add(-20 * time.Minute)})
			}
			router := taskRouter{log: logOf(shown...)}
			if !tt.answers {
				router = mute
				pgtest.Exec(t, s.pool, `UPDATE outbox SET lookups = 10 WHERE state = 'uncertain'`)
			}
			lookUp(t, resolver(t, s, router, func(p *request.Policy) { p.Undecided = tt.policy }))
			r := s.row(t, id)
			if r.State != tt.want || pgtest.Deref(r.ErrorKind) != tt.kind {
				t.Errorf("%s, %s: %s; want %s, %s", r.State, pgtest.Deref(r.ErrorKind), pgtest.Deref(r.ErrorMessage), tt.want, tt.kind)
			}
			if tt.want == request.Rejected && (pgtest.Deref(r.ErrorMessage) != "Invalid Channel" || pgtest.Deref(r.TwilioCode) != 20001) {
				t.Errorf("rejected as %q, code %d; want Flex's own words", pgtest.Deref(r.ErrorMessage), pgtest.Deref(r.TwilioCode))
			}
			if undecided := pgtest.One[bool](t, s.pool, `SELECT undecided FROM outbox WHERE request_id = $1`, id); undecided != !tt.answers && tt.want != request.Created {
				t.Errorf("undecided %t", undecided)
			}
			if tt.want != request.Uncertain {
				return
			}
			// A person waits, and TaskRouter answers again: the answer is given as it came.
			lookUp(t, resolver(t, s, taskRouter{log: logOf(shown...)}))
			r = s.row(t, id)
			if want := map[bool]request.State{false: request.Rejected, true: request.Expired}[tt.expires]; r.State != want || !tt.expires && (pgtest.Deref(r.ErrorKind) != "http_400" || pgtest.Deref(r.ErrorMessage) != "Invalid Channel") {
				t.Errorf("then %s, %s: %s; want %s as it was said", r.State, pgtest.Deref(r.ErrorKind), pgtest.Deref(r.ErrorMessage), want)
			}
		})
	}
}

// TestCancelledIsNeverSentAgain: a person cancelled an uncertain request. A lookup may
// still adopt it; whatever else comes, it is not pending again.
func TestCancelledIsNeverSentAgain(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		router taskRouter
		policy request.Undecided
		late   *flex.Outcome // recorded before it is looked up
		want   request.State
	}{
		"proved absent":           {taskRouter{}, request.Hold, nil, request.Cancelled},
		"found":                   {taskRouter{search: listed(sidA)}, request.Hold, nil, request.Created},
		"undecided, hold":         {taskRouter{log: unreadable}, request.Hold, nil, request.Uncertain},
		"undecided, retry":        {taskRouter{log: unreadable}, request.Retry, nil, request.Abandoned},
		"undecided, fail":         {taskRouter{log: unreadable}, request.Fail, nil, request.Abandoned},
		"it was refused, late":    {taskRouter{}, request.Hold, &flex.Outcome{Kind: flex.Refused, ErrorKind: "dial"}, request.Cancelled},
		"it was created, late":    {taskRouter{}, request.Hold, &good, request.Created},
		"it was rejected, late":   {taskRouter{}, request.Hold, &flex.Outcome{Kind: flex.Rejected, HTTPStatus: 400, ErrorKind: "http_400"}, request.Rejected},
		"it was answered without": {taskRouter{}, request.Retry, &flex.Outcome{Answered: true, ErrorKind: "no_sid"}, request.Abandoned},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStore(t)
			id := mustAdd(t, s, "stop", 1, keyed)[0]
			l := mustClaim(t, s, 1)[0]
			pgtest.Exec(t, s.pool, `UPDATE outbox SET leased_until = leased_until - interval '4 minutes', attempt_began_at = attempt_began_at - interval '4 minutes'`)
			if n, err := s.lapse(t.Context()); err != nil || n != 1 {
				t.Fatal(n, err)
			}
			pgtest.Exec(t, s.pool, `UPDATE outbox SET cancel_requested_at = clock_timestamp(), lookups = 10`)
			if tt.late != nil {
				if _, err := s.record(t.Context(), attempt.Decide(testPolicy, l, *tt.late, 0)); err != nil {
					t.Fatal(err)
				}
			}
			lookUp(t, resolver(t, s, tt.router, func(p *request.Policy) { p.Undecided, p.Settle = tt.policy, 10*time.Second }))
			if r := s.row(t, id); r.State != tt.want {
				t.Errorf("%s: %s; want %s", r.State, pgtest.Deref(r.ErrorMessage), tt.want)
			}
		})
	}
}

// TestRefusedLateAfterCancel: a request that was cancelled while uncertain, and that an earlier attempt may have created, is
// looked up at once when its latest attempt turns out to be refused. The wait that Flex asked for is of attempts.
func TestRefusedLateAfterCancel(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	id := mustAdd(t, s, "stop", 1, keyed)[0]
	l := mustClaim(t, s, 1)[0]
	pgtest.Exec(t, s.pool, `UPDATE outbox SET leased_until = leased_until - interval '4 minutes', undecided = true`)
	if n, err := s.lapse(t.Context()); err != nil || n != 1 {
		t.Fatal(n, err)
	}
	pgtest.Exec(t, s.pool, `UPDATE outbox SET cancel_requested_at = clock_timestamp()`)
	limited := flex.Outcome{Kind: flex.Refused, Limited: true, HTTPStatus: 429, RetryAfter: 30 * time.Minute, ErrorKind: "http_429"}
	if _, err := s.record(t.Context(), attempt.Decide(testPolicy, l, limited, 0)); err != nil {
		t.Fatal(err)
	}
	if r := s.row(t, id); r.State != request.Uncertain || r.DueIn == nil || *r.DueIn > 0 {
		t.Errorf("%s, due in %v", r.State, r.DueIn)
	}
}

func unreadable([]string, time.Time, time.Time) ([]flex.Task, bool, error) { return nil, false, nil }

// listed is a task list that has every key, in tasks of one interaction.
func listed(sid string) func(context.Context, string, string, []string) ([]flex.Task, error) {
	return func(_ context.Context, _, _ string, keys []string) (tasks []flex.Task, _ error) {
		for _, key := range keys {
			tasks = append(tasks, flex.Task{TaskSID: "WT1", Key: key, InteractionSID: sid, DateCreated: time.Now()})
		}
		return tasks, nil
	}
}

// TestLookupBesideThePerson: TaskRouter was away until a person was asked. Lookups go on,
// the person is told once, and when TaskRouter answers for one, the others are looked up
// at once.
func TestLookupBesideThePerson(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	ids := mustAdd(t, s, "away", 3, keyed)
	for range ids {
		s.timeout(t)
	}
	s.grow(t, 4*time.Minute)
	pgtest.Exec(t, s.pool, `UPDATE outbox SET lookups = 10`)
	down := fmt.Errorf("TaskRouter is away: %w", &flex.LookupError{ErrorKind: "http_503"})
	r := resolver(t, s, taskRouter{search: func(context.Context, string, string, []string) ([]flex.Task, error) { return nil, down }},
		func(p *request.Policy) { p.Settle = 10 * time.Second })
	var looked time.Time // before the latest lookup: a machine that is late since makes its wait no shorter
	look := func() {
		t.Helper()
		looked = pgtest.One[time.Time](t, s.pool, `SELECT clock_timestamp()`)
		lookUp(t, r)
	}
	for range 2 {
		look()
	}
	waiting := func() int {
		return pgtest.One[int](t, s.pool, `SELECT count(*) FROM outbox WHERE state = 'uncertain' AND for_person_since IS NOT NULL
			AND due_at BETWEEN $1::timestamptz + interval '40 s' AND clock_timestamp() + interval '10 minutes'`, looked)
	}
	if n := waiting(); n != 3 {
		t.Fatalf("%d wait for a person and are looked up again within ten minutes, want 3", n)
	}
	answers, err := s.Results.Unpublished(t.Context(), &results.Cursor{})
	if err != nil || len(answers) != 3 {
		t.Fatal(answers, err)
	}
	if err := s.Results.MarkPublished(t.Context(), answers); err != nil {
		t.Fatal(err)
	}
	s.grow(t, time.Hour)
	look()
	if answers, err := s.Results.Unpublished(t.Context(), &results.Cursor{}); err != nil || len(answers) > 0 || waiting() != 3 {
		t.Errorf("they are announced again, %v, or no longer looked up: %v", answers, err)
	}

	r.Flex = taskRouter{search: listed(sidA)}
	pgtest.Exec(t, s.pool, `UPDATE outbox SET received_at = clock_timestamp() - interval '1 hour'`)
	pgtest.Exec(t, s.pool, `UPDATE outbox_gate SET lookup_at = '-infinity'`)
	pgtest.Exec(t, s.pool, `UPDATE outbox SET due_at = clock_timestamp() WHERE request_id = $1`, ids[1])
	if _, err := r.Round(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.Ended.Wait()
	if row := s.row(t, ids[1]); row.State != request.Created || pgtest.Deref(row.InteractionSID) != sidA {
		t.Errorf("%s: %s", row.State, pgtest.Deref(row.ErrorMessage))
	}
	if n := pgtest.One[int](t, s.pool, `SELECT count(*) FROM outbox WHERE state = 'uncertain' AND due_at <= clock_timestamp()`); n != 2 {
		t.Errorf("%d of the other two are looked up at once", n)
	}
}

// TestPersonsWaitBehindTheRest: however many wait for a person, and are due since long,
// those that do not go first.
func TestPersonsWaitBehindTheRest(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	mustAdd(t, s, "old", 30, keyed)
	for range 30 {
		s.timeout(t)
	}
	pgtest.Exec(t, s.pool, `UPDATE outbox SET for_person_since = clock_timestamp() - interval '1 hour', due_at = clock_timestamp() - interval '1 hour'`)
	fresh := event("fresh", 99, keyed)
	if _, err := s.Add(t.Context(), fresh); err != nil {
		t.Fatal(err)
	}
	s.timeout(t)
	pgtest.Exec(t, s.pool, `UPDATE outbox SET due_at = clock_timestamp() WHERE request_id = 'fresh'`)
	q, err := s.Lookups.Take(t.Context(), 5, time.Minute, nil)
	if err != nil || len(q.Asked) != 5 || !slices.ContainsFunc(q.Asked, func(u lookup.Input) bool { return u.RequestID == "fresh" }) {
		t.Errorf("%+v, %v: the fresh one is not among the first", q.Asked, err)
	}
}

// TestSlowWorkspaceDelaysItself: the searches of one workspace hang. Those of another are
// made meanwhile, one after the other.
func TestSlowWorkspaceDelaysItself(t *testing.T) {
	t.Parallel()
	const slow, quick = "WS00000000000000000000000000000002", "WS00000000000000000000000000000009"
	s := newStore(t)
	for n := range 6 {
		e := event(fmt.Sprintf("w-%d", n), uint64(n+1), keyed)
		if n%2 == 1 {
			e.Request = []byte(`{"routing":{"properties":{"workspace_sid":"` + quick + `"}}}`)
		}
		if _, err := s.Add(t.Context(), e); err != nil {
			t.Fatal(err)
		}
		s.timeout(t)
	}
	pgtest.Exec(t, s.pool, `UPDATE outbox SET due_at = clock_timestamp() - interval '1 minute' * (CASE WHEN request::text LIKE '%`+quick+`%' THEN 1 ELSE 2 END)`)
	var mu sync.Mutex
	asked, answer := map[string]int{}, make(chan struct{})
	r := resolver(t, s, taskRouter{search: func(ctx context.Context, workspace, attribute string, keys []string) ([]flex.Task, error) {
		mu.Lock()
		asked[workspace]++
		mu.Unlock()
		if workspace == slow {
			<-answer
			return nil, errors.New("it did not answer")
		}
		return listed(sidA)(ctx, workspace, attribute, keys)
	}})
	ctx, stop := context.WithCancel(t.Context())
	running(t, s.upkeep().Poll)
	ended := make(chan struct{})
	go func() { defer close(ended); r.Run(ctx) }()
	expect.Eventually(t, func() error {
		if n := pgtest.One[int](t, s.pool, `SELECT count(*) FROM outbox WHERE state = 'created'`); n != 3 {
			return fmt.Errorf("%d of the other workspace's three are found", n)
		}
		return nil
	})
	stop()
	close(answer)
	<-ended
	mu.Lock()
	defer mu.Unlock()
	if asked[slow] != 1 || asked[quick] == 0 {
		t.Errorf("searches by workspace: %v; the slow one is asked once at a time", asked)
	}
}

// TestStopFinishesLookup: a process that is told to stop finishes the lookup that it makes. Cut short, the request would
// wait until another process may take the lookup for lost.
func TestStopFinishesLookup(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	id := mustAdd(t, s, "found", 1, keyed)[0]
	s.timeout(t)
	pgtest.Exec(t, s.pool, `UPDATE outbox SET due_at = clock_timestamp()`)
	asked, answer := make(chan struct{}), make(chan struct{})
	r := resolver(t, s, taskRouter{search: func(ctx context.Context, workspace, attribute string, keys []string) ([]flex.Task, error) {
		close(asked)
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-answer:
			return listed(sidA)(ctx, workspace, attribute, keys)
		}
	}})
	ctx, stop := context.WithCancel(t.Context())
	running(t, s.upkeep().Poll)
	ended := make(chan struct{})
	go func() { defer close(ended); r.Run(ctx) }()
	<-asked
	stop()
	close(answer)
	<-ended
	if row := s.row(t, id); row.State != request.Created {
		t.Errorf("%s, due in %v", row.State, pgtest.Deref(row.DueIn))
	}
}

// TestLookupOfAStoppedProcess: a process takes what is due, is stopped for minutes and then
// asks. The list may have forgotten by then what it would have shown: it counts for nothing.
// Seed 389015354778 of the simulation, with a log that lagged as well.
func TestLookupOfAStoppedProcess(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	id := mustAdd(t, s, "stopped", 1, keyed)[0]
	s.timeout(t)
	s.grow(t, 2*time.Minute)
	pgtest.Exec(t, s.pool, `UPDATE outbox SET due_at = clock_timestamp()`)
	r := resolver(t, s, taskRouter{search: func(ctx context.Context, _, _ string, _ []string) ([]flex.Task, error) { return nil, ctx.Err() }})
	for stopped, want := range map[time.Duration]request.State{lookup.LookupLimit: request.Uncertain, 0: request.Pending} {
		q, err := s.Lookups.Take(t.Context(), 19, time.Minute, nil)
		if err != nil || len(q.Asked) != 1 {
			t.Fatal(q, err)
		}
		if err := r.Ask(t.Context(), q, time.Now().Add(-stopped)); err != nil {
			t.Fatal(err)
		}
		if row := s.row(t, id); row.State != want {
			t.Errorf("asked %v after it was taken: %s, %s; want %s", stopped, row.State, pgtest.Deref(row.ErrorMessage), want)
		}
		pgtest.Exec(t, s.pool, `UPDATE outbox SET state = 'uncertain', error_kind = 'x', due_at = clock_timestamp()`)
		pgtest.Exec(t, s.pool, `UPDATE outbox_gate SET lookup_at = '-infinity'`)
	}
}
