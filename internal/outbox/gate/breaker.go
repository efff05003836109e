package gate

import (
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"flexworker/internal/flex"
	"flexworker/internal/loop"
	"flexworker/internal/rawjson"
)

// A Breaker stops this replica, and no other, when the replica has trouble of its own:
// no way to Flex, or credentials that Flex refuses. It knows nothing of Postgres. When
// all replicas fare so, each stops by its own breaker. The zero value is closed.
//
//	closed ──no credentials, a 401, a code about the account, a path unknown to Twilio, a redirect──► open
//	closed ──five failures in a row, of several tenants or with no way to Flex──► open
//	closed ──three requests in a row refused, as by a 403, of several tenants──► open
//	closed ──five failures in a row, all of one tenant──► choosing
//	choosing ──another tenant's call is answered──► closed     its failures are that tenant's own
//	choosing ──another tenant's call fails too; nobody else's request is found due──► open
//	choosing, trying ──a claim fails──► open    and asks, rather than stand still
//	open ──a read that creates nothing succeeds──► trying      asked every two seconds
//	trying ──its one call is answered; nothing is due; the gate is shut──► closed
//	trying ──its one call fails──► open
//	trying, astray ──nothing is due; the gate is shut──► open    only a call can tell
//	open, as the process has just started ──a read succeeds──► closed
//
// A tenant is a source and a workspace. What fails for one tenant alone must not stop
// the others, and what fails for all must stop soon: each call without an answer may
// cost an uncertain request. So before a breaker opens over one tenant it has another
// tenant's request tried first, where one is due. A tenant that was found to fail alone
// is excused: its failures are not counted for as long as others' calls are answered.
type Breaker struct {
	// PeerStopped says whether another replica is stopped as unreachable, and has been for some seconds; nil: none is.
	PeerStopped func() bool
	// Jitter spreads the times of reads; nil: jittered.
	Jitter func(time.Duration) time.Duration

	mu        sync.Mutex
	state     BreakerState
	changedAt time.Time
	word      Word // why it is open, or tries: WordUnreachable or WordUnauthorized
	reason    string
	askAt     time.Time // of the next read; while it is open
	failures  int       // in a row
	failed    map[string]bool
	excused   map[string]time.Time
	refused   map[string]string // tenants by the ids of the requests that were refused in a row
	// contradicted: until then refusals that may be one tenant's stop nobody; a read
	// has succeeded that would have met them if they were everybody's.
	contradicted time.Time
	// probation: it was closed without an answer to a call, as none was due. The next
	// failure opens it.
	probation bool
	first     bool // it is open as the process has just started
	// readable: the latest read has succeeded, while creates fail.
	readable bool
	// astray: what stopped it is the way of a create, which a read of another path need not
	// meet. Only a call can show that the way is right again.
	astray bool
}

// BreakerState is where a Breaker stands. The zero value is closed.
type BreakerState int

// Where a Breaker stands; its comment has the picture.
const (
	BreakerClosed   BreakerState = iota
	BreakerChoosing              // one call at a time, first of tenants that have not failed
	BreakerTrying                // likewise, after a read that succeeded
	BreakerOpen                  // no calls
)

const (
	// FailuresMost is how many calls in a row may fail until the breaker opens. Each of
	// them may cost an uncertain request, so it is low; a single one is everyday life.
	FailuresMost = 5
	// RefusedMost is how many different requests in a row, of more than one tenant,
	// may be refused until a read has to say whether everybody is.
	RefusedMost = 3
	// AskEvery is the time between two reads of a replica that is stopped, give or take a quarter.
	AskEvery = 2 * time.Second
	// excuseFor is how long a tenant's failures are not counted after another tenant's
	// call was answered.
	excuseFor = 10 * time.Second
	// contradictedFor is how long a read that succeeded speaks against refusals.
	contradictedFor = time.Minute
)

// A Call is what the breaker is told of the request that a create call was for.
type Call struct {
	RequestID, Source string
	Request           json.RawMessage
}

// tenant names who shares a fate with a request; as in the statement that claims.
func (c Call) tenant() string {
	workspace, _ := rawjson.Member(c.Request, "routing", "properties", "workspace_sid")
	sid, _ := rawjson.Text(workspace)
	return c.Source + " " + string(sid)
}

// blame says in words what stops this replica, for people who read nothing else.
func blame(o flex.Outcome) (Word, string) {
	word, what := WordUnauthorized, "credentials or account are at fault"
	switch s := o.HTTPStatus; {
	case o.UnknownPath:
		return WordUnreachable, fmt.Sprintf("%s (HTTP %d, code %d)", o.Message, s, o.TwilioCode)
	case flex.Redirected(o) || s == 407:
		word, what = WordUnreachable, "FLEX_URL or a proxy is at fault"
	case flex.Unanswered(o) && o.FromTwilio: // its 5xx: not well, whatever the credentials are
		word, what = WordUnreachable, "Flex answers that it has failed"
	case flex.Unanswered(o):
		word, what = WordUnreachable, "Flex does not answer"
	}
	if o.HTTPStatus == 0 {
		return word, what + ": " + o.Message
	}
	return word, fmt.Sprintf("%s: HTTP %d, code %d: %s", what, o.HTTPStatus, o.TwilioCode, o.Message)
}

// Observe takes what a call brought. It returns the states before and after.
func (b *Breaker) Observe(c Call, o flex.Outcome, now time.Time) (was, is BreakerState) {
	b.mu.Lock()
	defer b.mu.Unlock()
	was = b.state
	early := now.Add(-o.Took).Before(b.changedAt) // the call began before the state did
	switch {
	case b.state == BreakerOpen, b.state == BreakerTrying && early:
	case flex.Unsendable(o): // no answer; while the breaker tries or chooses another call is tried
	case o.Limited: // an answer, which says nothing about the other calls
	case flex.MayBeOneTenants(o):
		b.refusal(c, o, now)
	case o.Kind == flex.Blocked, flex.Redirected(o):
		b.open(o, now)
	case flex.Unanswered(o):
		b.failure(c.tenant(), o, now)
	case b.state != BreakerClosed && early: // Flex may have gone since
	default:
		b.success(c, now)
	}
	b.moved(was, now)
	return was, b.state
}

// moved notes when the state became another than was.
func (b *Breaker) moved(was BreakerState, now time.Time) {
	if b.state != was {
		b.changedAt = now
	}
}

func (b *Breaker) success(c Call, now time.Time) {
	if len(b.failed) > 0 || len(b.excused) > 0 { // else nobody has to know whose it is
		tenant := c.tenant()
		delete(b.excused, tenant)
		if b.state != BreakerClosed { // its failures were others' own
			for failed := range b.failed {
				b.excuse(failed)
			}
			delete(b.excused, tenant)
		}
		for excused, until := range b.excused {
			if until.Before(now) && !b.failed[excused] {
				delete(b.excused, excused)
				continue
			}
			b.excused[excused] = now.Add(excuseFor)
		}
	}
	b.probation = false
	b.close()
}

func (b *Breaker) excuse(tenant string) {
	if b.excused == nil {
		b.excused = map[string]time.Time{}
	}
	b.excused[tenant] = time.Time{}
}

// close begins the counts anew.
func (b *Breaker) close() {
	b.state, b.failures, b.astray = BreakerClosed, 0, false
	clear(b.failed)
	clear(b.refused)
}

func (b *Breaker) failure(tenant string, o flex.Outcome, now time.Time) {
	if b.state == BreakerClosed && !o.Unreached && now.Before(b.excused[tenant]) {
		return
	}
	if b.failed == nil {
		b.failed = map[string]bool{}
	}
	b.failures++
	b.failed[tenant] = true
	most := FailuresMost
	if b.probation || b.PeerStopped != nil && b.PeerStopped() {
		most = 1
	}
	switch {
	case b.state == BreakerTrying, b.failures >= most && (o.Unreached || len(b.failed) > 1):
		b.open(o, now)
	case b.state == BreakerClosed && b.failures >= most:
		b.state = BreakerChoosing
		b.word, b.reason = blame(o)
	}
}

// refusal: by itself it costs its request a backoff and nobody else anything.
func (b *Breaker) refusal(c Call, o flex.Outcome, now time.Time) {
	if b.state != BreakerClosed { // Flex has answered
		b.close()
	}
	if now.Before(b.contradicted) {
		return
	}
	if b.refused == nil {
		b.refused = map[string]string{}
	}
	tenant := c.tenant()
	b.refused[c.RequestID] = tenant
	if len(b.refused) < RefusedMost {
		return
	}
	for _, other := range b.refused {
		if other != tenant {
			b.open(o, now)
			return
		}
	}
	delete(b.refused, c.RequestID) // all of one tenant; it need not be remembered of how many
}

// open stops this replica. Whoever was excused has to show it anew.
func (b *Breaker) open(o flex.Outcome, now time.Time) {
	if b.state != BreakerTrying || !flex.Unanswered(o) || o.Unreached {
		b.readable = false
	}
	b.state, b.failures = BreakerOpen, 0
	b.word, b.reason = blame(o)
	b.astray = b.astray || o.UnknownPath || flex.Redirected(o)
	clear(b.excused)
	clear(b.refused)
	if b.askAt.Before(now) {
		b.askAt = now
	}
}

// AskFirst stops a replica that has just started until a read has succeeded.
func (b *Breaker) AskFirst() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.state, b.first, b.word, b.reason = BreakerOpen, true, WordUnreachable, "it has just started and asks Flex for the first time"
}

// NothingDue notes that a claim found no request to try, of tenants that have not
// failed or of anybody. It returns the states before and after.
func (b *Breaker) NothingDue(now time.Time) (was, is BreakerState) {
	b.mu.Lock()
	defer b.mu.Unlock()
	was = b.state
	switch {
	case b.state == BreakerChoosing: // stopping harms nobody else
		b.state, b.readable = BreakerOpen, false
		if b.askAt.Before(now) {
			b.askAt = now
		}
	case b.state == BreakerTrying && len(b.failed) > 0:
		clear(b.failed) // then one of theirs is tried
	case b.state == BreakerTrying && b.astray:
		b.state = BreakerOpen
	case b.state == BreakerTrying:
		b.probation = true
		b.close()
	}
	b.moved(was, now)
	return was, b.state
}

// ClaimFailed notes that it could not be found out whether there is a request to try. That
// may never be found out by the same claim, so it leads on as NothingDue does, but closes nothing.
func (b *Breaker) ClaimFailed(now time.Time) (was, is BreakerState) {
	b.mu.Lock()
	if b.state == BreakerTrying && len(b.failed) == 0 {
		defer b.mu.Unlock()
		b.state, b.changedAt = BreakerOpen, now
		return BreakerTrying, BreakerOpen
	}
	b.mu.Unlock()
	return b.NothingDue(now)
}

// GateShut notes that no call can be tried for now.
func (b *Breaker) GateShut(now time.Time) (was, is BreakerState) {
	b.mu.Lock()
	defer b.mu.Unlock()
	was = b.state
	switch {
	case b.state == BreakerTrying && b.astray:
		b.state = BreakerOpen
	case b.state == BreakerTrying:
		b.probation = true
		b.close()
	}
	b.moved(was, now)
	return was, b.state
}

// IsOpen says whether no call may begin.
func (b *Breaker) IsOpen() bool { return b.Is(BreakerOpen) }

// IsClosed says whether this replica works as usual.
func (b *Breaker) IsClosed() bool { return b.Is(BreakerClosed) }

// Is says whether the breaker stands there.
func (b *Breaker) Is(state BreakerState) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.state == state
}

// Asked notes what a read has brought: whether this replica may go on, with one call.
// Flex's 429 is an answer: the gate and the permits slow calls down, as they do for the others.
func (b *Breaker) Asked(o flex.Outcome, now time.Time) (goesOn bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	jitter := b.Jitter
	if jitter == nil {
		jitter = loop.Jittered
	}
	b.askAt = now.Add(jitter(AskEvery))
	if o.Kind != flex.Created && o.Kind != flex.Rejected && !o.Limited {
		b.word, b.reason = blame(o)
		b.readable = false
		return false
	}
	b.readable = !b.astray
	b.state, b.changedAt, b.contradicted = BreakerTrying, now, now.Add(contradictedFor)
	if b.first { // no call has failed
		b.first, b.contradicted = false, time.Time{}
		b.close()
	}
	return true
}

// AsksIn is how long this replica rests until its next read; ok: it is stopped.
func (b *Breaker) AsksIn(now time.Time) (d time.Duration, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return max(b.askAt.Sub(now), 0), b.state == BreakerOpen
}

// NextAsk is when a stopped replica asks next.
func (b *Breaker) NextAsk() time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.askAt
}

// Avoid are the tenants whose requests are tried last; none while the breaker is closed.
func (b *Breaker) Avoid() (tenants []string, one bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.state != BreakerChoosing && b.state != BreakerTrying {
		return nil, false
	}
	for tenant := range b.failed {
		tenants = append(tenants, tenant)
	}
	return tenants, true
}

// Stopped says whether this replica makes no calls, and why.
func (b *Breaker) Stopped() (word Word, reason string, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.calling() || b.readable {
		return WordOK, "", false
	}
	return b.word, b.reason, true
}

// Failing says why creates fail one by one, though reads succeed; "": they do not.
func (b *Breaker) Failing() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.calling() || !b.readable {
		return ""
	}
	return b.reason
}

// Works says whether this replica makes calls other than one to try after it was stopped.
func (b *Breaker) Works() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.calling()
}

// calling is works; b.mu is held.
func (b *Breaker) calling() bool { return b.state == BreakerClosed || b.state == BreakerChoosing }
