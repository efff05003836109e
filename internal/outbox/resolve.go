package outbox

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"flexworker/internal/crash"
	"flexworker/internal/flex"
	"flexworker/internal/trouble"
)

const (
	// lookupEvery is the least time between two searches of the whole fleet:
	// under the 3 a second that TaskRouter allows for them.
	// https://twilio.com/en-us/changelog/taskrouter-endpoint-rate-limit-correction
	lookupEvery = 400 * time.Millisecond
	// lookupLimit is how long a lookup may take until another replica may make it.
	lookupLimit = 45 * time.Second
	// lookupPoll is the pause after a turn that failed.
	lookupPoll = time.Second
	// lookupSpan is how far apart the attempts of one inquiry may be: the event
	// log is read for all of that time.
	lookupSpan = 10 * time.Second
	// limitedFor is the pause after a 429 of TaskRouter that names no time.
	limitedFor = 3 * time.Second
)

// Resolver finds out what became of uncertain requests. It owns no row: what it
// looks up is postponed past the lookup's limit, and should two ask, the first
// answer counts and the other is recorded, not applied.
type Resolver struct {
	Store  *Store
	Flex   finder
	Policy Policy
	// MayLookUp is asked before each turn; nil: it may.
	MayLookUp func() bool
	Log       *slog.Logger
	Counters  *Counters

	searches progress
	alone    int // searches that have to be made for one key each
	looking  trouble.Trouble
}

// An uncertain request as the Resolver takes it.
type uncertain struct {
	id        int64
	requestID string
	lookupKey string // "": there is no task to look for
	attempt   int
	spared    int
	lookups   int
	answered  bool
	since     time.Time     // by Postgres's clock
	age       time.Duration // since then, by the same clock
}

// Run looks up until ctx ends; a lookup that is cut is only made later.
func (r *Resolver) Run(ctx context.Context) {
	for ctx.Err() == nil {
		if r.MayLookUp != nil && !r.MayLookUp() {
			wait(ctx, jittered(lookupPoll), nil)
			continue
		}
		waiting, err := r.turn(ctx)
		if ctx.Err() == nil {
			r.looking.Tell(r.Log, "uncertain requests cannot be looked up; trying again", err)
		}
		switch {
		case err != nil:
			wait(ctx, jittered(lookupPoll), nil)
		case waiting:
			// Another inquiry has to wait until the fleet may search again.
			wait(ctx, jittered(lookupEvery), nil)
		default:
			wait(ctx, longestRest, r.Store.doubtful)
		}
	}
}

// turn makes one inquiry and stores what came of it. waiting: there was something
// to ask, so that there may be more.
func (r *Resolver) turn(ctx context.Context) (waiting bool, err error) {
	most := flex.MaxKeys - 1 // one place is the control's
	if r.alone > 0 {
		most = 1
	}
	q, err := r.Store.takeLookups(ctx, most)
	if isDataError(err) {
		err = r.skipUnreadable(ctx, err)
	}
	if err != nil || len(q.asked) == 0 {
		return q.waiting, err
	}
	r.alone = max(r.alone-1, 0)
	crash.At("asking")
	q.settle, q.lease = r.Policy.Settle, r.Store.leaseFor
	findings := make([]Finding, len(q.asked))
	begun := time.Now()
	if q.workspace == "" {
		for i := range findings {
			findings[i].Why = "its call carried no lookup key, or under another LOOKUP_ATTRIBUTE, or named no workspace: there is no task to look for"
		}
	} else {
		limit, cancel := context.WithTimeout(ctx, lookupLimit)
		defer cancel()
		findings, err = q.lookUp(limit, r.Flex)
		if ctx.Err() != nil {
			return true, nil
		}
		r.seen(err)
		r.slowDown(ctx, err)
	}
	took := time.Since(begun)
	err = nil
	for i, u := range q.asked {
		if findings[i].Alone {
			r.alone++
		}
		// The others' answers count all the same, unless Postgres is away for them too.
		failed := r.resolve(ctx, u, findings[i], took)
		err = cmp.Or(err, failed)
		if said := (*pgconn.PgError)(nil); failed != nil && !errors.As(failed, &said) {
			break
		}
	}
	return true, err
}

// skipUnreadable keeps one request that cannot be read from stopping the lookups of all.
// It returns why, where it found none.
func (r *Resolver) skipUnreadable(ctx context.Context, why error) error {
	skipped, err := r.Store.skipUnreadable(ctx)
	for _, id := range skipped {
		r.Log.Error("Postgres cannot read this request's JSON, so that its task cannot be looked for: UNCERTAIN_POLICY decides", "request_id", id, "error", why)
	}
	if len(skipped) > 0 {
		r.Store.doubtful.raise() // what it has stopped is looked up now
		return nil
	}
	return cmp.Or(err, why)
}

// seen takes whether TaskRouter has answered. Its 429 is an answer.
func (r *Resolver) seen(err error) {
	e := (*flex.LookupError)(nil)
	switch {
	case err == nil, errors.As(err, &e) && e.Limited:
		r.searches.succeeded(time.Now())
	default:
		r.searches.failed(err.Error(), time.Now())
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
	if err := r.Store.pauseLookups(ctx, pause); err != nil {
		r.Log.Warn("lookups could not be slowed down", "error", err)
	}
}

// resolve: uncertain -> what the policy makes of the finding.
func (r *Resolver) resolve(ctx context.Context, u uncertain, f Finding, took time.Duration) error {
	d := doubt{attempt: u.attempt, counted: u.attempt - u.spared, lookups: u.lookups, age: u.age,
		answered: u.answered, askable: u.lookupKey != ""}
	m := r.Policy.afterLookup(d, f, rand.Float64())
	r.note(u, f, m, took)
	crash.At("found")
	done, err := r.Store.resolve(ctx, u, f, m, took)
	crash.At("resolved")
	if err != nil {
		return err
	}
	if done == nil {
		r.Log.Info("the finding came too late: the request was resolved meanwhile", "request_id", u.requestID)
		return nil
	}
	if done.owed() {
		r.Store.settled.offer(done)
	}
	if m.to == Pending {
		r.Store.due.raise()
	}
	return nil
}

// note writes the one log line of a lookup.
func (r *Resolver) note(u uncertain, f Finding, m move, took time.Duration) {
	r.Counters.Lookups[f.Kind].Add(1)
	level := slog.LevelInfo
	if m.person || len(f.Others) > 0 {
		level = slog.LevelWarn
	}
	if len(f.Others) > 0 {
		r.Counters.Duplicates.Add(1)
	}
	r.Log.Log(context.Background(), level, "lookup",
		"request_id", u.requestID, "attempt", u.attempt, "lookup", u.lookups, "finding", f.Kind.String(),
		"interaction_sid", f.Outcome.InteractionSID, "others", f.Others, "why", f.Why, "age_ms", u.age.Milliseconds(),
		"took_ms", took.Milliseconds(), "to", string(m.to), "delay_ms", m.delay.Milliseconds(), "person", m.person)
}
