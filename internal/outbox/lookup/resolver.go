package lookup

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"flexworker/internal/crash"
	"flexworker/internal/database"
	"flexworker/internal/flex"
	"flexworker/internal/loop"
	"flexworker/internal/outbox/gate"
	"flexworker/internal/outbox/request"
	"flexworker/internal/outbox/results"
	"flexworker/internal/trouble"
)

const (
	// LookupEvery is the least time between two searches of the whole fleet:
	// under the 3 a second that TaskRouter allows for them.
	// https://twilio.com/en-us/changelog/taskrouter-endpoint-rate-limit-correction
	LookupEvery = 400 * time.Millisecond
	// LookupLimit is how long a lookup may take until another replica may make it.
	LookupLimit = 45 * time.Second
	// lookupPoll is the pause after a round that failed.
	lookupPoll = time.Second
	// LookupSpan is how far apart the attempts of one lookup batch may be: the event
	// log is read for all of that time.
	LookupSpan = 10 * time.Second
	// limitedFor is the pause after a 429 of TaskRouter that names no time.
	limitedFor = 3 * time.Second
	// stopLimit is how long a lookup may still take when the worker is told to stop. Usually
	// it takes a second; a TaskRouter that hangs must not use up SHUTDOWN_GRACE.
	stopLimit = 5 * time.Second
	// restMost is the longest rest without a signal.
	restMost = time.Minute
	// wakeMost is how many lookups for which a person waits are made due at once.
	wakeMost = 1000
)

// Resolver finds out what became of uncertain requests. It owns no row: what it
// looks up is postponed past the lookup's limit, and should two ask, the answer
// of the one that was taken last counts; the other is recorded, not obeyed.
type Resolver struct {
	Requests *Requests
	Results  *results.Outgoing
	Due      loop.Signal // raised when a request is pending again
	Flex     Finder
	Policy   request.Policy
	// MayLookUp is asked before each round; nil: it may.
	MayLookUp func() bool
	Log       *slog.Logger
	Counters  *Counters

	searches gate.Progress

	mu    sync.Mutex
	alone int            // searches that have to be made for one key each
	busy  []string       // workspaces that are being asked: one lookup batch each at a time
	Ended sync.WaitGroup // of inquiries

	hearing hearing

	looking trouble.Trouble
	takes   gate.Stall // whether Postgres lets what is due be taken
	stores  gate.Stall // and what was found be stored
}

// mostInquiries is how many workspaces one replica asks at a time. One whose searches
// hang costs its own requests only.
const mostInquiries = 8

// Input is an uncertain request as a lookup takes it.
type Input struct {
	ID        int64
	RequestID string
	LookupKey string // "": there is no task to look for
	Attempt   int
	Uncounted int
	Lookups   int
	Answered  bool
	// All by Postgres's clock: when it was received, when the attempt began, until when
	// it could have been under way, and how long ago the latter two are.
	Received, Began, Since time.Time
	Lasted, Age            time.Duration
	Waits                  bool          // for a person
	Waited                 time.Duration // since then
	theirs                 bool          // as in request.LookupInput
	EndsAs                 request.State // what becomes of it once it is proved absent; "": it is sent again
}

// Run looks up until ctx ends, and until what it has begun has ended. That has stopLimit then: a
// lookup that is cut short is only made later, but not before LookupLimit is over.
func (r *Resolver) Run(ctx context.Context) {
	defer r.Ended.Wait()
	loop.Rest(ctx, restMost, r.Requests.Waiting) // the poll of package upkeep, which begins before, says whether anything waits
	for ctx.Err() == nil {
		if r.MayLookUp != nil && !r.MayLookUp() {
			loop.Rest(ctx, loop.Jittered(lookupPoll), nil)
			continue
		}
		waiting, err := r.Round(ctx)
		if ctx.Err() == nil {
			r.looking.Tell(r.Log, "uncertain requests cannot be looked up; trying again", err)
		}
		switch {
		case err != nil:
			loop.Rest(ctx, loop.Jittered(lookupPoll), nil)
		case waiting:
			// Another lookup batch has to wait until the fleet may search again.
			loop.Rest(ctx, loop.Jittered(LookupEvery), nil)
		default:
			loop.Rest(ctx, restMost, r.Requests.Waiting)
		}
	}
}

// Round takes one lookup batch and begins it. waiting: there was something to ask, so that
// there may be more.
func (r *Resolver) Round(ctx context.Context) (waiting bool, err error) {
	most, busy := r.room()
	if len(busy) == mostInquiries {
		return false, nil // the end of one is a signal
	}
	taken := time.Now()
	q, err := r.Requests.Take(ctx, most, r.Policy.Settle, busy)
	if database.IsDataError(err) {
		err = r.skipUnreadable(ctx, err)
	}
	if ctx.Err() == nil {
		err = r.takes.Tried(ctx, r.Requests.Pool, taken, err)
	}
	if err != nil || len(q.Asked) == 0 {
		return q.Waiting, err
	}
	r.begin(q)
	r.Ended.Go(func() {
		ctx, end := loop.Outlive(ctx, stopLimit)
		defer end()
		err := r.Ask(ctx, q, taken)
		r.end(q)
		if err != nil && ctx.Err() == nil {
			r.Log.Warn("what a lookup found cannot be stored; it is looked up again", "error", err)
		}
	})
	return true, nil
}

// Stalled says what of the lookups Postgres has not let through for after or longer; "": all goes on, or nothing is due.
func (r *Resolver) Stalled(after time.Duration) string {
	return gate.Stalled(after,
		gate.Stalling{What: "no lookup could begin", Stall: &r.takes},
		gate.Stalling{What: "nothing that a lookup found could be stored", Stall: &r.stores})
}

// room says how many keys one search may have now, and which workspaces are busy.
func (r *Resolver) room() (most int, busy []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.alone > 0 {
		return 1, slices.Clone(r.busy)
	}
	return flex.MaxKeys - 1, slices.Clone(r.busy) // one place is the canary key's
}

func (r *Resolver) begin(q Batch) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.alone = max(r.alone-1, 0)
	r.busy = append(r.busy, q.Workspace)
}

func (r *Resolver) end(q Batch) {
	r.mu.Lock()
	at := slices.Index(r.busy, q.Workspace)
	r.busy = slices.Delete(r.busy, at, at+1)
	r.mu.Unlock()
	r.Requests.Waiting.Raise() // there may be more of that workspace
}

// Ask makes one lookup batch and stores what came of it. What a process that was stopped in
// between asks too late tells nothing: how old an attempt is was read when it was taken.
func (r *Resolver) Ask(ctx context.Context, q Batch, taken time.Time) error {
	crash.At("asking")
	findings := make([]request.Finding, len(q.Asked))
	began := time.Now()
	if q.Workspace == "" {
		for i := range findings {
			findings[i].Why = "its call carried no lookup key, or named no workspace: there is no task to look for"
		}
	} else {
		limit, cancel := context.WithDeadline(ctx, taken.Add(LookupLimit))
		defer cancel()
		var err error
		heard := hearer{r.Flex, map[witness]error{}}
		findings, err = q.LookUp(limit, heard)
		if ctx.Err() != nil {
			return nil
		}
		r.Seen(err)
		r.slowDown(ctx, err)
		if r.hearing.take(scope{q.Workspace, q.Attribute}, heard.answers, time.Now()) {
			r.wake(ctx, q)
		}
	}
	took := time.Since(began)
	policy := r.Policy
	policy.Settle = q.Settle
	storing := time.Now()
	var err error
	for i, u := range q.Asked {
		if findings[i].Alone {
			r.mu.Lock()
			r.alone++
			r.mu.Unlock()
		}
		// The others' answers count all the same, unless Postgres is away for them too.
		failed := r.resolve(ctx, policy, u, findings[i], took)
		err = cmp.Or(err, failed)
		if said := (*pgconn.PgError)(nil); failed != nil && !errors.As(failed, &said) {
			break
		}
	}
	if database.RowsLocked(ctx, r.Requests.Pool, err, "outbox", "outbox_attempts") {
		return err // which is the trouble of one request
	}
	return r.stores.Tried(ctx, r.Requests.Pool, storing, err)
}

// wake has those looked up at once for which a person waits: TaskRouter answers again.
func (r *Resolver) wake(ctx context.Context, q Batch) {
	switch n, err := r.Requests.wakeWaiting(ctx, q.Workspace, q.Attribute); {
	case err != nil:
		r.Log.Warn("what waits for a person cannot be looked up at once; it is later", "error", err)
	case n > 0:
		r.Log.Info("TaskRouter answers again: what waits for a person is looked up", "workspace", q.Workspace, "attribute", q.Attribute, "requests", n)
	}
}

// skipUnreadable keeps one request that cannot be read from stopping the lookups of all.
// It returns why, where it found none.
func (r *Resolver) skipUnreadable(ctx context.Context, why error) error {
	skipped, err := r.Requests.skipUnreadable(ctx)
	for _, id := range skipped {
		r.Log.Error("Postgres cannot read this request's JSON, so that its task cannot be looked for: UNCERTAIN_POLICY decides", "request_id", id, "error", why)
	}
	if len(skipped) > 0 {
		r.Requests.Waiting.Raise() // what it has stopped is looked up now
		return nil
	}
	return cmp.Or(err, why)
}

// Seen takes whether TaskRouter has answered. Its 429 is an answer.
func (r *Resolver) Seen(err error) {
	e := (*flex.LookupError)(nil)
	switch {
	case err == nil, errors.As(err, &e) && e.Limited:
		r.searches.Succeeded(time.Now())
	default:
		r.searches.Failed(err.Error(), time.Now())
	}
}

// slowDown obeys TaskRouter's 429 for the whole fleet.
func (r *Resolver) slowDown(ctx context.Context, err error) {
	var e *flex.LookupError
	if !errors.As(err, &e) || !e.Limited {
		return
	}
	pause := e.RetryAfter
	if pause == 0 {
		pause = limitedFor
	}
	if err := r.Requests.Pause(ctx, pause); err != nil {
		r.Log.Warn("lookups could not be slowed down", "error", err)
	}
}

// resolve: uncertain -> what the policy makes of the finding.
func (r *Resolver) resolve(ctx context.Context, p request.Policy, u Input, f request.Finding, took time.Duration) error {
	m := p.AfterLookup(u.PolicyInput(), f, rand.Float64())
	r.Counters.Findings[f.Kind].Add(1)
	crash.At("found")
	done, err := r.Requests.Resolve(ctx, u, f, m, took)
	crash.At("resolved")
	// What is surely not stored is looked up and counted again. What may be stored is counted, also where it came too
	// late: whoever resolved the request meanwhile need not know of the other interactions.
	if len(f.Others) > 0 && !database.NotCommitted(err) {
		r.Counters.Duplicates.Add(1)
	}
	if err != nil {
		return err
	}
	r.note(u, f, m, took, done != nil)
	if done == nil {
		return nil
	}
	if done.Owed() {
		r.Results.Offer(done)
	}
	if m.To == request.Pending {
		r.Due.Raise()
	}
	return nil
}

// PolicyInput is what the policy is told.
func (u Input) PolicyInput() request.LookupInput {
	return request.LookupInput{Attempt: u.Attempt, Counted: u.Attempt - u.Uncounted, Lookups: u.Lookups, Age: u.Age, Answered: u.Answered,
		Askable: u.LookupKey != "", Waits: u.Waits, Waited: u.Waited, EndsAs: u.EndsAs, Theirs: u.theirs}
}

// note writes the one log line of a lookup. It follows the record: a finding that is not stored moves nothing, and one
// that came too late moves nothing either.
func (r *Resolver) note(u Input, f request.Finding, m request.Move, took time.Duration, applied bool) {
	level := slog.LevelInfo
	attrs := []any{"request_id", u.RequestID, "attempt", u.Attempt, "lookup", u.Lookups, "finding", f.Kind.String(),
		"interaction_sid", f.Outcome.InteractionSID, "others", f.Others, "why", f.Why, "age_ms", u.Age.Milliseconds(), "took_ms", took.Milliseconds()}
	if applied && m.Person && !u.Waits || len(f.Others) > 0 {
		level = slog.LevelWarn
	}
	if !applied {
		r.Log.Log(context.Background(), level, "the finding came too late, and moves nothing: somebody else has changed the request meanwhile", attrs...)
		return
	}
	attrs = append(attrs, "to", string(m.To), "delay_ms", m.Delay.Milliseconds(), "person", m.Person)
	r.Log.Log(context.Background(), level, "lookup", attrs...)
}

// Failing says why TaskRouter cannot be asked; "": it can, or nothing is asked.
func (r *Resolver) Failing() string {
	if why := r.searches.Failing(gate.LookupsFailing, 0, gate.ForgottenAfter, time.Now()); why != "" {
		return "TaskRouter cannot be asked: " + why
	}
	return ""
}

// LastAnswered is when TaskRouter last answered a search; zero: never.
func (r *Resolver) LastAnswered() time.Time { return r.searches.Last() }

// Counters count what a Resolver did since it started. The zero value is ready.
type Counters struct {
	Findings   [3]atomic.Int64 // by request.FindingKind
	Duplicates atomic.Int64    // findings of more than one interaction, once they are stored or may be
}
