package outbox

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"flexworker/internal/flex"
	"flexworker/internal/outbox/attempt"
	"flexworker/internal/outbox/gate"
	"flexworker/internal/outbox/lookup"
	"flexworker/internal/outbox/request"
	"flexworker/internal/outbox/results"
)

// The world of the simulation: Flex, TaskRouter, the two streams, the replicas
// and the people. Whatever can be decided here is thrown by the history's dice.

var (
	simStart = time.Date(2026, 11, 22, 9, 0, 0, 0, time.UTC)
	simKeys  = []string{"k0", "k1", "k2", "k3", "k4"}

	simRequest = []byte(`{"routing":{"properties":{"workspace_sid":"WS"}}}`)
)

// simMessage is a message of the request stream.
type simMessage struct {
	sequence, request            int
	expiresAt                    instant
	streamAt, notBefore          instant // notBefore 0: none
	priority                     int
	noTask, faults, other, acked bool
}

// simCall is one POST, as Flex sees it.
type simCall struct {
	request  int
	createAt instant // never: it creates nothing
	key, sid string
	attr     string // the attribute under which it carries the key
}

// simTask is an interaction with its task, as TaskRouter comes to show it.
type simTask struct {
	request                          int // -1: an earlier request's of the same id
	key, sid, attr                   string
	createdAt, listedAt, goneAt, log instant
	fate                             simFate
	setUpAt                          instant
}

// simFlex is Flex and TaskRouter.
type simFlex struct {
	calls []simCall // that may still create
	tasks []simTask // the ledger
	sids  int

	refused    int  // by 429, because of limited
	denied     bool // 401 to all
	down       bool // TaskRouter does not answer
	nameless   bool // tasks do not name their interaction
	unreadable bool // events without readable attributes
	noFetch    bool // interactions cannot be read
	noLists    bool // the filter understands one value only; of a property of the service, healing is none
	doubted    int  // 1: tasks may be listed later than the settle time; 2: logged
	skew       time.Duration
	limited    instant // until then every create is answered by 429
	setups     int     // what Flex says to the reads of set-ups
	logUntil   instant // the event log stands still and shows nothing created later; never: it does not
}

// simAnswer is one message for the result stream.
type simAnswer struct {
	kind     results.AnswerKind
	row      int
	number   int // revision, attempt or sequence: what the mark is fenced by
	revision int // of an announcement
	state    request.State
	sid      string
}

// simResult is a message on the result stream, after deduplication.
type simResult struct {
	simAnswer
	copies int
}

// simLease is a lease in the hands of a replica, and how far it has come.
type simLease struct {
	lease   Lease
	until   instant // by the replica's own clock, from before the claim
	sent    bool
	backAt  instant // when the call ends
	outcome flex.Outcome
	decided *record
	made    bool
}

// simAsking is a lookup batch in the hands of a replica.
type simAsking struct {
	q        lookup.Batch
	findings []request.Finding
	taken    instant
	asked    bool
	next     int
}

// simReplica is one process. All but its number is lost when it dies.
type simReplica struct {
	number     int
	stalled    bool
	draining   bool
	inHand     []*simMessage
	stored     []*simMessage // committed, not yet acked
	leases     []simLease
	inDoubt    []int // lease tokens
	asking     *simAsking
	looks      []simLook
	off        bool // confirmation, as it knows
	alone      int
	mute       bool
	breaker    gate.Breaker
	canaryKeys lookup.CanaryKeys
	hints      []simAnswer
	sending    []simAnswer // read for publishing
	acked      []simAnswer // acknowledged, not yet marked
}

// unjittered keeps a history the same when its seed is.
func unjittered(d time.Duration) time.Duration { return d }

func (s *sim) crash(r *simReplica) {
	s.born++
	*r = simReplica{number: s.born, breaker: gate.Breaker{Jitter: unjittered}, inHand: r.inHand[:0], stored: r.stored[:0], leases: r.leases[:0], looks: r.looks[:0], inDoubt: r.inDoubt[:0], hints: r.hints[:0],
		sending: r.sending[:0], acked: r.acked[:0]}
}

// A step of a replica returns whether there was something to do.
type simStep func(*sim, *simReplica) bool

var simSteps = []simStep{
	(*sim).stepReceive, (*sim).stepAdd, (*sim).stepAck, (*sim).stepClaim, (*sim).stepTakeBack, (*sim).stepDeliver, (*sim).stepAnswered, (*sim).stepRecord,
	(*sim).stepSweep, (*sim).stepTake, (*sim).stepAsk, (*sim).stepResolve, (*sim).stepRead, (*sim).stepSend, (*sim).stepMark, (*sim).stepProbe,
	(*sim).stepTakeSetups, (*sim).stepLook, (*sim).stepKeepLook,
}

// stepReceive: the stream delivers a message that is not acked, also one that
// another replica has in hand: AckWait may be over.
func (s *sim) stepReceive(r *simReplica) bool {
	if r.draining || len(r.inHand) > 1 {
		return false
	}
	from := s.r.IntN(len(s.stream))
	for i := range s.stream {
		m := &s.stream[(from+i)%len(s.stream)]
		if m.acked || slices.Contains(r.inHand, m) || slices.Contains(r.stored, m) {
			continue
		}
		r.inHand = append(r.inHand, m)
		s.log("%d receives message %d", r.number, m.sequence)
		return true
	}
	return false
}

// stepAdd: the row is committed. A commit whose answer is lost is redelivered.
func (s *sim) stepAdd(r *simReplica) bool {
	if len(r.inHand) == 0 || s.away {
		return false
	}
	m := r.inHand[0]
	r.inHand = r.inHand[1:]
	if s.broken(ackBeforeAdd) {
		m.acked = true
	}
	by := 0
	if !r.draining && len(r.leases) <= 2 && s.r.IntN(2) == 0 && r.breaker.IsClosed() {
		by = r.number // a permit is free, and nothing that is due waits
	}
	token := s.sign()
	if lost, made := s.lost(); lost {
		if made {
			s.insert(m, by, token)
		}
		s.log("%d adds message %d, token %d, and is not told; committed %t", r.number, m.sequence, token, made)
		if by != 0 {
			r.inDoubt = append(r.inDoubt, token)
		}
		return true
	}
	fresh, leased := s.insert(m, by, token)
	if leased != nil {
		s.holds(r, leased)
	}
	if !fresh {
		s.repeat(m)
	} else if m.faults {
		s.hint(r, s.row(m.request))
	}
	s.log("%d adds message %d, fresh %t", r.number, m.sequence, fresh)
	r.stored = append(r.stored, m)
	return true
}

func (s *sim) stepAck(r *simReplica) bool {
	if len(r.stored) == 0 {
		return false
	}
	m := r.stored[0]
	r.stored = r.stored[1:]
	if !s.chance(loseAck) {
		m.acked = true
	}
	return true
}

func (s *sim) stepClaim(r *simReplica) bool {
	if s.away || r.draining || len(r.leases) > 2 || r.breaker.IsOpen() {
		return false
	}
	permits := 2
	if avoid, one := r.breaker.Avoid(); len(avoid) > 0 { // all are of one tenant here
		r.breaker.NothingDue(s.clock())
		return true
	} else if one {
		permits = 1
	}
	token, half, odd := s.sign(), s.r.IntN(2) == 0, s.r.IntN(2)
	if lost, made := s.lost(); lost {
		n := 0
		if made {
			rows, _ := s.claim(r.number, token, permits, half, odd)
			n = len(rows)
		}
		s.log("%d claims %d, token %d, and is not told; committed %t", r.number, n, token, made)
		r.inDoubt = append(r.inDoubt, token)
		return true
	}
	rows, shut := s.claim(r.number, token, permits, half, odd)
	if shut != gate.Open {
		r.breaker.GateShut(s.clock())
	} else if len(rows) == 0 {
		r.breaker.NothingDue(s.clock())
	}
	if len(rows) == 0 {
		return false
	}
	for _, row := range rows {
		s.holds(r, row)
	}
	return true
}

// sign: Store.leaseToken.
func (s *sim) sign() int {
	s.signed++
	return s.signed
}

// lost: a statement ends in an error, whether it was committed or not.
func (s *sim) lost() (lost, made bool) {
	if !s.chance(loseCommit) {
		return false, false
	}
	return true, s.r.IntN(2) == 0
}

// stepTakeBack: Dispatcher.reclaim. A commit is made at once here or never, so
// one answer is enough.
func (s *sim) stepTakeBack(r *simReplica) bool {
	if s.away || len(r.inDoubt) == 0 {
		return false
	}
	for _, token := range r.inDoubt {
		s.log("%d reclaims token %d: %d", r.number, token, s.reclaim(r.number, token))
	}
	r.inDoubt = r.inDoubt[:0]
	return true
}

// holds: a lease comes into the hands of a replica.
func (s *sim) holds(r *simReplica, row *simRow) {
	s.log("%d leases %d, attempt %d", r.number, row.id, row.attempt)
	r.leases = append(r.leases, simLease{until: s.now + s.leaseOf(r.number),
		lease: Lease{ID: int64(row.id), RequestID: simKeys[row.id], Request: simRequest, LookupKey: row.key, Attempt: row.attempt, Uncounted: row.uncounted, Undecided: row.undecided && !s.broken(undecidedIsForgotten)}})
}

// stepDeliver: Dispatcher.deliver up to the first byte. What is left of it is
// that a process can be stopped between the check and the byte; the simulation
// takes the two for one.
func (s *sim) stepDeliver(r *simReplica) bool {
	for i := range r.leases {
		l := &r.leases[i]
		if l.sent || l.decided != nil {
			continue
		}
		if r.draining || r.breaker.IsOpen() || l.until-s.now < s.limitOf(r.number)+sendMargin && !s.broken(sendNotFenced) {
			l.decided = &record{Lease: l.lease, Outcome: "released", Move: request.Move{To: request.Pending, Uncounted: true}}
			s.log("%d puts %d back", r.number, l.lease.ID)
			return true
		}
		l.sent = true
		s.checkSend(r, l)
		l.outcome, l.backAt = s.call(r, l)
		s.log("%d sends %d, attempt %d: %s, answered %t, back at %v", r.number, l.lease.ID, l.lease.Attempt, l.outcome.Kind, l.outcome.Answered, l.backAt)
		return true
	}
	return false
}

// call is Flex: what it does, what it says, and when.
func (s *sim) call(r *simReplica, l *simLease) (flex.Outcome, instant) {
	f := &s.flex
	id := int(l.lease.ID)
	back := s.now + time.Duration(s.r.Int64N(int64(s.limitOf(r.number))))
	creates := func(late bool) string {
		f.sids++
		sid := simSID(f.sids)
		at := s.now
		if late {
			at += time.Duration(s.r.Int64N(int64(s.policy.Settle / 3)))
		}
		f.calls = append(f.calls, simCall{request: id, createAt: at, key: l.lease.LookupKey, sid: sid, attr: s.attributeOf(r.number)})
		s.create()
		return sid
	}
	dice := s.r.IntN(100)
	if s.healing {
		dice = 99
	}
	switch {
	case s.now < f.limited:
		f.refused++
		after := time.Duration(s.r.IntN(3)*s.r.IntN(120)) * time.Second // none, too, and more than is left
		return flex.Outcome{Kind: flex.Refused, Limited: true, RetryAfter: after, ErrorKind: "http_429"}, back
	case f.denied:
		return flex.Outcome{Kind: flex.Blocked, HTTPStatus: 401, ErrorKind: "http_401"}, back
	case dice < 12: // the connection breaks, or 5xx, or time is over: created, perhaps later
		creates(s.r.IntN(2) == 0)
		return flex.Outcome{ErrorKind: "timeout"}, back
	case dice < 24: // the same, not created
		return flex.Outcome{ErrorKind: "timeout"}, back
	case dice < 30: // 2xx without a sid, created
		creates(false)
		return flex.Outcome{Answered: true, ErrorKind: "no_sid"}, back
	case dice < 33: // 2xx of a proxy that asked nobody
		return flex.Outcome{Answered: true, ErrorKind: "not_json"}, back
	case dice < 41:
		return flex.Outcome{Kind: flex.Refused, Unreached: true, ErrorKind: "dial"}, back
	case dice < 43:
		return flex.Outcome{Kind: flex.Blocked, HTTPStatus: 403, ErrorKind: "http_403"}, back
	case dice < 46:
		return flex.Outcome{Kind: flex.Refused, Limited: true, RetryAfter: time.Duration(s.r.IntN(20)) * time.Second, ErrorKind: "http_429"}, back
	case dice < 51:
		return flex.Outcome{Kind: flex.Rejected, ErrorKind: "http_400"}, back
	case dice < 54: // a proxy repeats its answer to another request, whether it passes the call on or not
		if other := s.inOrder(func(r *simRow) bool { return r.id != id && r.sid != "" }, func(a, b *simRow) int { return cmp.Compare(b.id, a.id) }, 1); len(other) > 0 {
			if s.r.IntN(2) == 0 {
				creates(false)
			}
			return flex.Outcome{Kind: flex.Created, Answered: true, InteractionSID: other[0].sid}, back
		}
		fallthrough
	default:
		return flex.Outcome{Kind: flex.Created, InteractionSID: creates(false)}, back
	}
}

var simSIDs = func() (sids [64]string) {
	for i := range sids {
		sids[i] = fmt.Sprintf("KD%d", i)
	}
	return sids
}()

func simSID(n int) string {
	if n < len(simSIDs) {
		return simSIDs[n]
	}
	return fmt.Sprintf("KD%d", n)
}

// create makes what calls create by now. TaskRouter lists it and logs it within
// the settle time, in some histories one of the two, the control to be doubted,
// later than that; and it forgets the task five minutes after its end.
func (s *sim) create() {
	f := &s.flex
	for i := 0; i < len(f.calls); {
		c := f.calls[i]
		if c.createAt > s.now {
			i++
			continue
		}
		f.calls = slices.Delete(f.calls, i, i+1)
		lag := func(doubted int) time.Duration {
			if f.doubted == doubted {
				return time.Duration(s.r.Int64N(int64(min(4*s.policy.Settle, 3*time.Minute))))
			}
			return time.Duration(s.r.Int64N(int64(s.policy.Settle / 2)))
		}
		t := simTask{request: c.request, key: c.key, sid: c.sid, attr: c.attr, createdAt: c.createAt, listedAt: c.createAt + lag(1), log: c.createAt + lag(2), goneAt: 1 << 62}
		if s.r.IntN(2) == 0 { // it ends soon
			t.goneAt = c.createAt + time.Duration(s.r.Int64N(int64(time.Minute))) + lookup.TaskMemory
		}
		if s.confirm {
			t.setUpAt = c.createAt + time.Duration(s.r.Int64N(int64(30*time.Second)))
			t.fate = simFate(max(0, s.r.IntN(8)-3))
		}
		f.tasks = append(f.tasks, t)
		s.log("Flex creates %s for %d", t.sid, t.request)
	}
}

// stepAnswered: the call ends, and is decided on: attempt.Decide.
func (s *sim) stepAnswered(r *simReplica) bool {
	for i := range r.leases {
		l := &r.leases[i]
		if !l.sent || l.decided != nil || l.backAt > s.now {
			continue
		}
		r.breaker.Observe(callOf(l.lease), l.outcome, s.clock())
		decided := attempt.Decide(s.policy, l.lease, l.outcome, s.r.Float64())
		if s.broken(blockedCounts) && l.outcome.Kind == flex.Blocked {
			decided.Move.Uncounted = false
		}
		l.decided = &decided
		return true
	}
	return false
}

// stepRecord: Dispatcher.record, tried again while Postgres is away.
func (s *sim) stepRecord(r *simReplica) bool {
	if s.away {
		return false
	}
	for i := range r.leases {
		l := &r.leases[i]
		if l.decided == nil {
			continue
		}
		if l.made { // Completer.Try
			r.leases = slices.Delete(r.leases, i, i+1)
			return true
		}
		applied, row, owner := s.record(r.number, *l.decided)
		if owner != nil { // Completer.Complete
			*l.decided = disowned(s.policy, *l.decided, "", s.r.Float64())
			s.log("%d was told of %d the interaction of %d", r.number, l.lease.ID, owner.id)
			return true
		}
		if is := s.row(int(l.lease.ID)); is.attempt == l.lease.Attempt && is.state == request.Pending && l.outcome.Answered && l.sent {
			s.fail("request %d is to be sent again, and Flex answered its latest attempt with a 2xx", is.id)
		}
		s.log("%d records %d, attempt %d: %s, applied %t", r.number, l.lease.ID, l.lease.Attempt, l.decided.Outcome, applied)
		s.checkRecord(l, row)
		if s.chance(loseCommit) {
			l.made = s.r.IntN(4) > 0
			return true // it is tried again, and asks the history, or meets what it wrote: the first try came after it asked
		}
		if row != nil && row.state.Final() {
			if row.state == request.Created {
				r.canaryKeys.Saw(l.lease.LookupKey, l.lease.Request, simStart.Add(s.now))
			}
			s.hint(r, row)
		}
		r.leases = slices.Delete(r.leases, i, i+1)
		return true
	}
	return false
}

func (s *sim) stepSweep(*simReplica) bool {
	return !s.away && s.lapse()+s.expire() > 0
}

func (s *sim) stepTake(r *simReplica) bool {
	if s.away || r.draining || r.asking != nil {
		return false
	}
	most := flex.MaxKeys - 1
	if r.alone > 0 {
		most = 1
	}
	settle := s.policy.Settle // the longest in the fleet
	if s.broken(ownSettle) {
		settle = s.settleOf(r.number)
	}
	q := s.takeLookups(&r.canaryKeys, most, settle, s.attributeOf(r.number))
	if len(q.Asked) == 0 {
		return false
	}
	r.alone = max(r.alone-1, 0)
	if s.broken(absentAtOnce) {
		q.Settle = 0
	}
	for i := range q.Asked {
		u := &q.Asked[i]
		if s.broken(ownLease) {
			u.Began, u.Lasted = u.Since.Add(-s.leaseOf(r.number)), u.Age+s.leaseOf(r.number)
		}
		if s.broken(olderIsAdopted) {
			u.Received = simStart
		}
	}
	if s.broken(ownAttribute) {
		q.Attribute = s.attributeOf(r.number)
	}
	r.asking = &simAsking{q: q, taken: s.now}
	return true
}

// stepAsk: the lookup itself, by the real lookup batch.
func (s *sim) stepAsk(r *simReplica) bool {
	a := r.asking
	if a == nil || a.asked {
		return false
	}
	a.asked = true
	if a.q.Workspace == "" {
		a.findings = make([]request.Finding, len(a.q.Asked))
		return true
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	if s.now-a.taken > lookup.LookupLimit {
		cancel() // the limit counts from when they were taken
	}
	var err error
	a.findings, err = a.q.LookUp(ctx, s)
	if s.broken(logAloneCounts) {
		for i, u := range a.q.Asked {
			if f := &a.findings[i]; u.Forgotten() && f.Kind == request.Unclear && strings.Contains(f.Why, "alone proves nothing") {
				f.Kind = request.Absent
			}
		}
	}
	if err == nil && r.mute {
		s.wakeWaiting()
	}
	r.mute = err != nil
	return true
}

// stepResolve: Resolver.resolve for one request.
func (s *sim) stepResolve(r *simReplica) bool {
	a := r.asking
	if a == nil || !a.asked || s.away {
		return false
	}
	if a.next == len(a.findings) {
		r.asking = nil
		return true
	}
	u, f := a.q.Asked[a.next], a.findings[a.next]
	a.next++
	if f.Alone {
		r.alone++
	}
	d := u.PolicyInput()
	p := s.policy
	p.Settle = a.q.Settle
	if s.broken(absentAtOnce) {
		p.Settle = 0
	}
	m := p.AfterLookup(d, f, s.r.Float64())
	if s.broken(absentAfterAnswer) && f.Kind == request.Absent && d.Answered {
		m = request.Move{To: request.Pending}
	}
	d.Answered = s.row(int(u.ID)).answered
	row := s.resolve(r.number, u, f, m)
	s.log("%d resolves %d, attempt %d, lookup %d: %s %s -> %s, applied %t", r.number, u.ID, u.Attempt, u.Lookups, f.Kind, f.Why, m.To, row != nil)
	if row == nil {
		return true
	}
	s.checkResolve(row, d, f, m)
	if row.state.Final() || m.Person && !row.announced {
		s.hint(r, row)
	}
	if s.chance(loseCommit) {
		r.asking = nil // the round ends with the error
	}
	return true
}

// hint: hints.offer. It may be lost.
func (s *sim) hint(r *simReplica, row *simRow) {
	if s.r.IntN(3) > 0 {
		r.hints = append(r.hints, answerOf(row))
	}
}

// stepRead: Publisher.Run reads hints or, when there are none, unpublished results.
func (s *sim) stepRead(r *simReplica) bool {
	if len(r.sending) > 0 || len(r.acked) > 0 {
		return false
	}
	if len(r.hints) > 0 {
		r.sending = append(r.sending, r.hints...)
		r.hints = r.hints[:0]
		return true
	}
	if s.away {
		return false
	}
	r.sending = append(r.sending, s.unpublished()...)
	if s.broken(markBeforeAck) {
		s.markPublished(r.sending, s.confirm)
	}
	return len(r.sending) > 0
}

// stepSend: one answer goes to the result stream, which may not take it, or
// take it without saying so.
func (s *sim) stepSend(r *simReplica) bool {
	if len(r.sending) == 0 {
		return false
	}
	a := r.sending[0]
	r.sending = r.sending[1:]
	if s.chance(streamAway) {
		return true
	}
	s.store(a)
	if !s.chance(loseAck) {
		r.acked = append(r.acked, a)
	}
	return true
}

// stepMark: Store.markPublished of what was acknowledged.
func (s *sim) stepMark(r *simReplica) bool {
	if len(r.acked) == 0 || len(r.sending) > 0 || s.away {
		return false
	}
	s.markPublished(r.acked, s.confirm)
	r.acked = r.acked[:0]
	return true
}

// stepProbe: Dispatcher.ask. A read finds out whether a stopped replica can go on.
func (s *sim) stepProbe(r *simReplica) bool {
	if in, stopped := r.breaker.AsksIn(s.clock()); r.draining || !stopped || in > 0 {
		return false
	}
	o := flex.Outcome{Kind: flex.Rejected}
	if s.flex.denied {
		o = flex.Outcome{Kind: flex.Blocked, HTTPStatus: 401}
	}
	r.breaker.Asked(o, s.clock())
	return true
}

// clock is the time of a process.
func (s *sim) clock() time.Time { return simStart.Add(s.now) }

// store is the result stream: it keeps one message of an id.
func (s *sim) store(a simAnswer) {
	s.checkResult(a)
	for i := range s.results {
		if r := &s.results[i]; r.kind == a.kind && r.row == a.row && r.number == a.number && r.revision == a.revision {
			r.copies++
			if (r.kind == results.Final || r.kind == results.SetupWord) && (r.state != a.state || r.sid != a.sid) {
				s.fail("two different results under one message id: %v and %v", r.simAnswer, a)
			}
			return
		}
	}
	s.results = append(s.results, simResult{a, 1})
}

// SearchTasks, Events and Fetch make the simulation a finder.
func (s *sim) SearchTasks(ctx context.Context, _, attribute string, keys []string) ([]flex.Task, error) {
	f := &s.flex
	if f.down || ctx.Err() != nil {
		return nil, &flex.LookupError{ErrorKind: "timeout"}
	}
	if f.noLists && len(keys) > 1 {
		return nil, nil
	}
	var found []flex.Task
	for i := range f.tasks {
		if t := &f.tasks[i]; t.key != "" && t.attr == attribute && slices.Contains(keys, t.key) && t.listedAt <= s.now && s.now < t.goneAt {
			found = append(found, s.task(t, 0))
		}
	}
	return found, nil
}

func (s *sim) Events(_ context.Context, _, attribute string, keys []string, from, to time.Time) ([]flex.Task, bool, error) {
	f := &s.flex
	if f.down {
		return nil, false, &flex.LookupError{ErrorKind: "timeout"}
	}
	var found []flex.Task
	for i := range f.tasks {
		t := &f.tasks[i]
		at := simStart.Add(t.createdAt + f.skew)
		if t.attr == attribute && slices.Contains(keys, t.key) && t.log <= s.now && (f.logUntil == never || t.createdAt <= f.logUntil) && !at.Before(from) && !at.After(to) && !f.unreadable {
			found = append(found, s.task(t, f.skew))
		}
	}
	return found, !f.unreadable, nil
}

func (s *sim) task(t *simTask, skew time.Duration) flex.Task {
	found := flex.Task{TaskSID: "WT", Key: t.key, InteractionSID: t.sid, DateCreated: simStart.Add(t.createdAt + skew)}
	if s.flex.nameless {
		found.InteractionSID = ""
	}
	return found
}

func (s *sim) Fetch(_ context.Context, sid string) flex.Outcome {
	if s.flex.noFetch {
		return flex.Outcome{ErrorKind: "timeout"}
	}
	return flex.Outcome{Kind: flex.Created, InteractionSID: sid}
}

// stepWorld is what happens around the replicas: time, faults, people.
func (s *sim) stepWorld() {
	f := &s.flex
	switch r := s.replicas[s.r.IntN(len(s.replicas))]; s.r.IntN(25) {
	case 0:
		s.log("%d dies", r.number)
		s.crash(r)
	case 1, 2:
		r.stalled = !r.stalled
		s.log("%d stalled: %t", r.number, r.stalled)
	case 3:
		r.draining = true // SIGTERM; its end is a crash with nothing in hand
	case 4:
		s.away = !s.away
		s.log("Postgres away: %t", s.away)
	case 5:
		f.denied = !f.denied
	case 6:
		f.down = !f.down
	case 7:
		f.nameless, f.noFetch = s.r.IntN(4) == 0, s.r.IntN(4) == 0
	case 8:
		f.unreadable = !f.unreadable
	case 9, 10:
		s.stepPerson()
	case 11:
		if f.logUntil != never {
			f.logUntil = never
		} else if f.doubted != 1 { // one witness at a time is to be doubted
			f.logUntil = s.now
		}
		s.log("the event log stands still: %t", f.logUntil != never)
	case 12:
		f.setups = s.r.IntN(limitsSetups + 1)
	default:
		s.passTime(simWaits[s.r.IntN(len(simWaits))])
	}
}

var simWaits = []time.Duration{50 * time.Millisecond, time.Second, time.Second, 3 * time.Second, 8 * time.Second, 21 * time.Second, 62 * time.Second, 6 * time.Minute}

func (s *sim) passTime(d time.Duration) {
	s.now += d
	s.log("%v pass", d)
	s.create()
}

// What the replicas were started with: of every other process FLEX_TIMEOUT and
// LOOKUP_SETTLE are shorter, and LOOKUP_ATTRIBUTE is another, where a history has that.
func (s *sim) limitOf(replica int) time.Duration {
	if s.unequal && replica%2 == 0 {
		return s.limit / 4
	}
	return s.limit
}

func (s *sim) leaseOf(replica int) time.Duration { return s.limitOf(replica) + request.LeaseMargin }

func (s *sim) settleOf(replica int) time.Duration {
	if s.unequal && replica%2 == 0 {
		return s.policy.Settle / 8
	}
	return s.policy.Settle
}

func (s *sim) attributeOf(replica int) string {
	if s.unequal && replica%2 == 0 {
		return "b"
	}
	return "a"
}

// stepPerson is one act of an operator.
func (s *sim) stepPerson() {
	if s.away || len(s.rows) == 0 {
		return
	}
	row := &s.rows[s.r.IntN(len(s.rows))]
	switch s.r.IntN(8) {
	case 0:
		if s.cancel(row) {
			s.log("a person cancels %d", row.id)
		}
	case 1, 6, 7:
		g, unverified := &s.ghosts[row.id], s.r.IntN(2) == 0
		if s.retry(row, unverified) {
			g.retried = true
			g.person = g.person || g.undecide && unverified // it may be created twice
			g.undecide = false
			s.log("a person retries %d", row.id)
		}
	case 2: // who looks finds what is there
		if i := slices.IndexFunc(s.flex.tasks, func(t simTask) bool { return t.request == row.id }); i >= 0 && s.resolveCreated(row, s.flex.tasks[i].sid) {
			s.log("a person resolves %d as created", row.id)
		}
	case 3:
		if s.resolveAbsent(row) {
			g := &s.ghosts[row.id]
			g.person, g.undecide = true, row.state.Final()
			s.log("a person resolves %d as absent", row.id)
		}
	case 4:
		if s.gate.heldSince == never {
			s.hold()
		} else {
			s.release()
		}
	case 5:
		s.republish(row)
	}
}

// the chances of small faults, in a thousand.
const (
	loseCommit = 40
	loseAck    = 60
	streamAway = 60
)

func (s *sim) chance(perMille int) bool { return !s.healing && s.r.IntN(1000) < perMille }

func newSimRand(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, 22)) }
