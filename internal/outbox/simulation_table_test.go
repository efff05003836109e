package outbox

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"flexworker/internal/flex"
	"flexworker/internal/outbox/gate"
	"flexworker/internal/outbox/lookup"
	"flexworker/internal/outbox/request"
	"flexworker/internal/outbox/results"
	"flexworker/internal/outbox/upkeep"
	"flexworker/internal/testing/pgtest"
)

// The tables of the simulation. Each method does, in memory and at once, what
// the statement it names does in one transaction: the same WHERE, the same SET.
// A simulation is worth what these are worth: who changes a statement changes
// its mirror.

// instant is virtual time since the simulation began; never is NULL.
type instant = time.Duration

const never instant = -1

// simRow is a row of outbox, in the columns that decide something.
type simRow struct {
	id             int
	state          request.State
	priority       int
	faults         bool
	key            string  // lookup_key; "": no task to look for
	streamAt       instant // stream_time
	receivedAt     instant
	dueAt          instant
	expiresAt      instant
	attempt        int
	uncounted      int
	leasedBy       int
	token          int // of the latest lease: the number in leased_by, then in the history of its lapse
	leasedUntil    instant
	beganAt        instant // attempt_began_at
	lookups        int
	uncertainSince instant
	answered       bool
	undecided      bool
	attribute      string // lookup_attribute, where there is a key
	lookedAt       instant
	forPerson      instant // for_person_since
	cancelled      bool    // cancel_requested_at
	endsAs         request.State
	resolvedBy     string
	reason         string // error_kind
	status         int    // http_status
	sid            string
	revision       int
	settledAt      instant
	published      bool
	announced      bool
	sequence       int // stream_sequence
}

// simGate is the row of outbox_gate.
type simGate struct {
	heldSince, pausedUntil, lookupAt instant
}

// simRepeat is a row of outbox_repeats or, where conflict is set, of outbox_malformed.
type simRepeat struct {
	row, sequence         int
	streamAt, publishedAt instant
	conflict              bool
}

// simHistory is a row of outbox_attempts. Of a lapse the worker is the lease's token, too.
type simHistory struct {
	row, number int
	lookup      bool
	outcome     string
	applied     bool
	by, token   int
}

// insert: Store.insert. INSERT ... ON CONFLICT (request_id) DO NOTHING. by has a
// permit free for it, or is 0; then the gate is asked as by a claim.
func (s *sim) insert(m *simMessage, by, token int) (fresh bool, leased *simRow) {
	if s.row(m.request) != nil || s.isOld(m) || m.streamAt < s.now-replayAge && s.kept(m, true) {
		return false, nil
	}
	r := simRow{id: m.request, state: request.Pending, priority: m.priority, key: simKeys[m.request], dueAt: s.now, expiresAt: m.expiresAt, leasedUntil: never,
		streamAt: m.streamAt, receivedAt: s.now, beganAt: never, forPerson: never, uncertainSince: never, revision: 1, settledAt: never, sequence: m.sequence}
	if m.notBefore != 0 {
		r.dueAt = m.notBefore
	}
	if m.noTask {
		r.key = ""
	}
	if m.faults {
		r.state, r.faults, r.reason, r.dueAt, r.settledAt = request.Rejected, true, "invalid", never, s.now
	} else if by != 0 && m.expiresAt == never && m.notBefore == 0 && s.passes() == gate.Open {
		r.state, r.dueAt, r.attempt, r.leasedBy, r.token, r.leasedUntil = request.Sending, never, 1, by, token, s.now+s.leaseOf(by)
		r.beganAt = s.now
		if r.key != "" {
			r.attribute = s.attributeOf(by)
		}
	}
	s.rows = append(s.rows, r)
	if r.state == request.Sending {
		leased = &s.rows[len(s.rows)-1]
	}
	return true, leased
}

// isOld: Store.newest.
func (s *sim) isOld(m *simMessage) bool {
	return s.retention != 0 && m.streamAt < s.now-(s.retention-oldMargin)
}

// kept says whether a message is in outbox_malformed, or else in outbox_repeats.
func (s *sim) kept(m *simMessage, conflict bool) bool {
	return slices.ContainsFunc(s.repeats, func(r simRepeat) bool { return r.conflict == conflict && r.sequence == m.sequence })
}

// repeat: results.Messages.AnswerKnown. What is known is redelivered, asked again, or in conflict.
func (s *sim) repeat(m *simMessage) Added {
	row := s.row(m.request)
	switch {
	case row == nil && s.kept(m, true):
		return Redelivered
	case row == nil:
		return old
	case row.sequence == m.sequence:
		return Redelivered
	}
	if !s.kept(m, m.other) { // ON CONFLICT ON CONSTRAINT repeat_is_kept_once, message_is_kept_once
		s.repeats = append(s.repeats, simRepeat{row: m.request, sequence: m.sequence, streamAt: m.streamAt, publishedAt: never, conflict: m.other})
	}
	if m.other {
		return Conflicting
	}
	return Repeated
}

func (s *sim) row(id int) *simRow {
	for i := range s.rows {
		if s.rows[i].id == id {
			return &s.rows[i]
		}
	}
	return nil
}

// passes: gate.LockSQL, without a rate.
func (s *sim) passes() gate.State {
	switch g := &s.gate; {
	case g.heldSince != never:
		return gate.Held
	case g.pausedUntil > s.now:
		return gate.Paused
	default:
		return gate.Open
	}
}

// claim: Store.claim. pending -> sending. Where half is set, what is new and what is tried
// again get half each, and odd says whose an odd permit is.
func (s *sim) claim(by, token, permits int, half bool, odd int) (leased []*simRow, state gate.State) {
	if shut := s.passes(); shut != gate.Open {
		return nil, shut
	}
	due := func(again bool, n int) []*simRow {
		return s.inOrder(func(r *simRow) bool {
			return r.state == request.Pending && r.attempt > 0 == again && r.dueAt <= s.now && (r.expiresAt == never || r.expiresAt > s.now)
		}, func(a, b *simRow) int { return cmp.Or(b.priority-a.priority, cmp.Compare(a.dueAt, b.dueAt)) }, n)
	}
	most := permits
	if half {
		most = (permits + odd) / 2
	}
	leased = due(false, most)
	leased = append(leased, due(true, permits-len(leased))...)
	for _, row := range leased {
		row.state, row.dueAt = request.Sending, never
		row.attempt++
		row.leasedBy, row.token, row.leasedUntil = by, token, s.now+s.leaseOf(by)
		if row.beganAt == never || !row.undecided || s.broken(beganWithTheLatest) {
			row.beganAt = s.now
		}
		under := ""
		if row.key != "" {
			under = s.attributeOf(by)
		}
		row.answered = row.answered || row.undecided && row.attribute != under
		row.attribute = under
	}
	return leased, gate.Open
}

// reclaim: Store.reclaim. sending, or lapsed -> pending, for what bears the token.
func (s *sim) reclaim(by, token int) (n int) {
	for i := range s.rows {
		row := &s.rows[i]
		its := row.state == request.Sending && row.token == token ||
			row.state == request.Uncertain && row.endsAs == "" && (!row.undecided || !row.cancelled) && s.lapsedUnder(row, token)
		if s.broken(takeBackNotFenced) {
			its = row.state == request.Sending && row.leasedBy == by
		}
		if !its {
			continue
		}
		n++
		row.lookups++ // CASE WHEN o.state = 'uncertain' THEN o.lookups + 1 ELSE 0 END
		if row.state == request.Sending {
			row.lookups = 0
		}
		row.state, row.leasedBy, row.leasedUntil, row.dueAt, row.reason, row.status = request.Pending, 0, never, s.now, "", 0
		row.resolvedBy = ""
		if row.cancelled {
			row.state, row.dueAt, row.settledAt, row.reason, row.resolvedBy = request.Cancelled, never, s.now, "cancelled", "operator"
		}
		row.uncounted = min(row.uncounted+1, row.attempt)
		row.answered, row.announced, row.forPerson = row.undecided && row.answered, false, never
		s.tell(simHistory{row: row.id, number: row.attempt, outcome: "released", applied: true, by: by})
	}
	return n
}

func (s *sim) lapsedUnder(r *simRow, token int) bool {
	return slices.ContainsFunc(s.histories, func(h simHistory) bool {
		return h.row == r.id && !h.lookup && h.number == r.attempt && h.outcome == "lapsed" && h.token == token
	})
}

// tell writes a row of history.
func (s *sim) tell(h simHistory) { s.histories = append(s.histories, h) }

// inOrder are at most n rows for which where says yes, in an order, and in that of their ids.
func (s *sim) inOrder(where func(*simRow) bool, order func(a, b *simRow) int, n int) []*simRow {
	var chosen []*simRow
	for i := range s.rows {
		if where(&s.rows[i]) {
			chosen = append(chosen, &s.rows[i])
		}
	}
	if len(chosen) > 1 {
		slices.SortStableFunc(chosen, order)
	}
	return chosen[:min(max(n, 0), len(chosen))]
}

// record: recordSQL, findOwners and gate.Pause. sending, or uncertain still of this attempt -> what was decided. Of an
// interaction that is another's nothing is recorded.
func (s *sim) record(by int, r record) (applied bool, done, owner *simRow) {
	if r.Unproved() && !s.broken(anothersIsBelieved) {
		if owner = s.owner(int(r.Lease.ID), r.Told.InteractionSID); owner != nil {
			return false, nil, owner
		}
	}
	defer func() {
		s.tell(simHistory{row: int(r.Lease.ID), number: r.Lease.Attempt, outcome: r.Outcome, applied: applied, by: by})
	}()
	if r.Pause > 0 { // gate.Pause
		s.gate.pausedUntil = max(s.gate.pausedUntil, s.now+r.Pause)
	}
	row := s.row(int(r.Lease.ID))
	fits := row.attempt == r.Lease.Attempt && (row.state == request.Sending || row.state == request.Uncertain && row.endsAs == "" || (row.state == request.Pending || row.state == request.Uncertain) && s.late(r))
	if s.broken(recordNotFenced) {
		fits = row.state == request.Sending || row.state == request.Uncertain
	}
	if s.broken(recordOverAnything) {
		fits = row.attempt == r.Lease.Attempt
	}
	if !fits {
		return false, nil, nil
	}
	o, m := r.Told, r.Move
	since := s.now // least(clock_timestamp(), coalesce(o.leased_until, o.uncertain_since)), which ignores null
	if row.leasedUntil != never {
		since = min(since, row.leasedUntil)
	} else if row.uncertainSince != never {
		since = min(since, row.uncertainSince)
	}
	row.lookups++ // CASE WHEN o.state = 'sending' THEN 0 ELSE o.lookups + 1 END
	if row.state == request.Sending || s.broken(lookupsCountAnew) {
		row.lookups = 0
	}
	to := m.To // ledTo
	if to == request.Pending && row.cancelled && !s.broken(cancelledIsSent) {
		to = request.Cancelled
		if row.undecided {
			to = request.Uncertain
		}
	}
	row.announced = row.announced && row.state == request.Uncertain && to == request.Uncertain
	row.state, row.leasedBy, row.leasedUntil, row.dueAt, row.forPerson = to, 0, never, never, never
	if to == request.Pending || to == request.Uncertain {
		row.dueAt = s.now + m.Delay
		if to != m.To {
			row.dueAt = s.now
		}
	}
	if m.Uncounted {
		row.uncounted = min(row.uncounted+1, row.attempt)
	}
	row.sid = o.InteractionSID
	if m.To == request.Uncertain && (m.EndsAs == "" || row.uncertainSince == never) {
		row.uncertainSince = since
	}
	row.answered = o.Answered && o.Kind == 0 || row.undecided && row.answered
	row.endsAs = m.EndsAs
	row.reason, row.status = reasonOf(r), o.HTTPStatus
	if m.To == request.Pending && row.cancelled {
		row.reason = "cancelled"
	}
	row.resolvedBy = ""
	if m.To == request.Created || m.To == request.Rejected {
		row.resolvedBy = "response"
	} else if to == request.Cancelled {
		row.resolvedBy = "operator"
	}
	if to.Final() {
		row.settledAt = s.now
	}
	return true, row, nil
}

// owner is the first other request that has this interaction.
func (s *sim) owner(id int, sid string) *simRow {
	for i := range s.rows {
		if r := &s.rows[i]; r.id != id && r.sid == sid {
			return r
		}
	}
	return nil
}

// reasonOf: attempt's reason.
func reasonOf(r record) string {
	if r.Told.ErrorKind == "" && r.Told.Kind != flex.Created && r.Outcome != "released" {
		return "unknown"
	}
	return r.Told.ErrorKind
}

// late: what still moves a request that is pending again after the same attempt.
func (s *sim) late(r record) bool {
	answered := r.Told.Answered && r.Told.Kind == 0 && !s.broken(lateAnswerIsLost)
	return r.Move.To == request.Created || r.Move.To == request.Rejected || answered || r.Move.EndsAs != ""
}

// lapse: Store.lapse. sending -> uncertain, where the lease ran out.
func (s *sim) lapse() (n int) {
	for i := range s.rows {
		r := &s.rows[i]
		if r.state != request.Sending || r.leasedUntil >= s.now {
			continue
		}
		n++
		r.state, r.dueAt, r.uncertainSince = request.Uncertain, s.now+upkeep.LapsedRest, r.leasedUntil
		s.tell(simHistory{row: r.id, number: r.attempt, outcome: "lapsed", applied: true, by: r.leasedBy, token: r.token})
		r.leasedBy, r.leasedUntil = 0, never
		r.answered, r.lookups, r.announced, r.reason, r.status = r.undecided && r.answered, 0, false, "lapsed", 0
		if s.broken(lapseToPending) {
			r.state = request.Pending
		}
	}
	return n
}

// expire: Store.expire. pending -> expired, where the deadline passed.
func (s *sim) expire() (n int) {
	for i := range s.rows {
		r := &s.rows[i]
		unsent := r.state == request.Pending || s.broken(uncertainExpires) && r.state == request.Uncertain
		if r.expiresAt == never || r.expiresAt > s.now || !unsent {
			continue
		}
		n++
		r.lookups++
		r.announced, r.reason = false, "expired"
		if r.beganAt == never {
			r.beganAt = r.receivedAt
		}
		if r.uncertainSince == never {
			r.uncertainSince = s.now
		}
		if r.undecided && !s.broken(undecidedIsForgotten) {
			r.state, r.dueAt, r.endsAs = request.Uncertain, s.now, request.Expired
			continue
		}
		r.state, r.dueAt, r.settledAt = request.Expired, never, s.now
	}
	return n
}

// takeLookups: Store.takeLookups with postpone. There is one workspace; what
// has no task comes alone.
func (s *sim) takeLookups(seen *lookup.CanaryKeys, most int, settle time.Duration, own string) (q lookup.Batch) {
	q.Settle = settle
	due := func(r *simRow) bool {
		return r.state == request.Uncertain && r.dueAt != never && r.dueAt <= s.now && (r.key == "" || s.gate.lookupAt <= s.now)
	}
	order := func(a, b *simRow) int {
		return cmp.Or(cmp.Compare(a.forPerson, b.forPerson), cmp.Compare(a.dueAt, b.dueAt))
	}
	first := s.inOrder(due, order, 1)
	if len(first) == 0 {
		return q
	}
	if first[0].key != "" {
		q.Workspace, q.Attribute = "WS", first[0].attribute
		if q.Attribute == own {
			q.CanaryKey = seen.Key(q.Workspace, simStart.Add(s.now))
		}
	}
	at := *first[0]
	for _, r := range s.inOrder(func(r *simRow) bool {
		return due(r) && (r.key == "") == (q.Workspace == "") && (r.key == "" || r.attribute == q.Attribute) && r.beganAt >= at.beganAt-lookup.LookupSpan &&
			r.uncertainSince >= at.uncertainSince-lookup.LookupSpan && r.uncertainSince <= at.uncertainSince+lookup.LookupSpan
	}, order, most) {
		r.dueAt = s.now + lookup.LookupLimit
		r.lookups++
		r.lookedAt = s.now
		if r.key == q.CanaryKey {
			q.CanaryKey = ""
		}
		u := lookup.Input{ID: int64(r.id), LookupKey: r.key, Attempt: r.attempt, Uncounted: r.uncounted, Lookups: r.lookups,
			Answered: r.answered, Received: simStart.Add(r.receivedAt), Began: simStart.Add(r.beganAt), Since: simStart.Add(r.uncertainSince),
			Lasted: s.now - r.beganAt, Age: s.now - r.uncertainSince, Waits: r.forPerson != never, EndsAs: r.endsAs}
		if u.Waits {
			u.Waited = s.now - r.forPerson
		}
		if r.cancelled && !s.broken(cancelledIsSent) {
			u.EndsAs = request.Cancelled
		}
		q.Asked = append(q.Asked, u)
	}
	if q.Workspace != "" {
		s.gate.lookupAt = s.now + lookup.LookupEvery
		q.Later = s.laterCreation(q)
	}
	return q
}

// laterCreation: laterCreation.
func (s *sim) laterCreation(q lookup.Batch) (c lookup.Creation) {
	after := instant(0)
	for _, u := range q.Asked {
		after = max(after, u.Since.Sub(simStart))
	}
	for _, r := range s.inOrder(func(r *simRow) bool {
		return r.state == request.Created && r.resolvedBy == "response" && r.key != "" && r.attribute == q.Attribute && r.settledAt > after+q.Settle && r.beganAt > after+q.Settle && !r.undecided
	}, func(a, b *simRow) int { return cmp.Compare(a.settledAt, b.settledAt) }, 1) {
		c = lookup.Creation{Key: r.key, Began: simStart.Add(r.beganAt), Settled: simStart.Add(r.settledAt), Ripe: r.settledAt < s.now-q.Settle}
	}
	return c
}

// wakeWaiting: Store.wakeWaiting.
func (s *sim) wakeWaiting() {
	for i := range s.rows {
		if r := &s.rows[i]; r.state == request.Uncertain && r.forPerson != never && r.dueAt > s.now+lookup.LookupLimit {
			r.dueAt = s.now
		}
	}
}

// resolve: Store.resolve. uncertain -> what the policy made of the finding.
func (s *sim) resolve(by int, u lookup.Input, f request.Finding, m request.Move) (done *simRow) {
	defer func() {
		s.tell(simHistory{row: int(u.ID), number: u.Lookups, lookup: true, outcome: f.Kind.String(), applied: done != nil, by: by})
	}()
	row := s.row(int(u.ID))
	if row.attempt != u.Attempt || row.state != request.Uncertain || row.lookups != u.Lookups && !s.broken(resolveNotFenced) {
		return nil
	}
	if m.To == request.Pending && row.cancelled && !s.broken(cancelledIsSent) {
		return nil
	}
	if f.Kind == request.Absent && row.dueAt <= s.now { // it was asked for too long ago; of null the statement is not true either
		return nil
	}
	kind, _ := lookup.Reason(u, f, m)
	switch {
	case m.To == request.Created:
		row.reason = pgtest.Deref(kind)
	case !m.Undecided && m.To == u.EndsAs && (m.To == request.Rejected || m.To == request.Abandoned):
		if row.status != 0 {
			row.reason = fmt.Sprintf("http_%d", row.status)
		}
	case kind != nil:
		row.reason = *kind
	}
	row.state, row.dueAt = m.To, never
	if (m.To == request.Pending || m.To == request.Uncertain) && (!m.Person || u.LookupKey != "") {
		row.dueAt = s.now + m.Delay
	}
	row.sid = f.Outcome.InteractionSID
	row.resolvedBy = map[request.State]string{request.Created: "lookup", request.Abandoned: "lookup", request.Rejected: "response", request.Cancelled: "operator"}[m.To]
	if !m.Person || row.forPerson == never {
		row.forPerson = never
		if m.Person {
			row.forPerson = s.now
			if s.broken(personIsForgotten) {
				row.dueAt = never
			}
		}
	}
	if m.To != request.Uncertain {
		row.endsAs = ""
		if m.Undecided {
			row.undecided = !s.broken(undecidedIsForgotten)
		} else if m.To != request.Created {
			row.undecided, row.answered = false, false
		}
	}
	if m.To.Final() {
		row.settledAt = s.now
	}
	return row
}

// unpublished results: Store.unpublished results and asking.
func (s *sim) unpublished() (answers []simAnswer) {
	for i := range s.rows {
		r := &s.rows[i]
		if r.settledAt != never && !r.published && r.settledAt < s.now-results.UnpublishedAge ||
			r.state == request.Uncertain && r.forPerson != never && !r.announced {
			answers = append(answers, answerOf(r))
		}
	}
	for _, r := range s.repeats {
		switch row := s.row(r.row); {
		case r.publishedAt != never:
		case r.conflict:
			answers = append(answers, simAnswer{kind: results.Malformation, row: r.row, number: r.sequence})
		case row.settledAt != never: // askingAgain
			answers = append(answers, simAnswer{kind: results.Repetition, row: r.row, number: r.sequence, state: row.state, sid: row.sid})
		}
	}
	for i := range s.setups {
		if d := &s.setups[i]; d.word != "" && !d.published {
			answers = append(answers, s.wordOf(d))
		}
	}
	return answers
}

// answerOf: revision.answer.
func answerOf(r *simRow) simAnswer {
	if !r.state.Final() {
		return simAnswer{kind: results.Announcement, row: r.id, number: r.attempt, revision: r.revision, state: r.state}
	}
	return simAnswer{kind: results.Final, row: r.id, number: r.revision, state: r.state, sid: r.sid}
}

// markPublished: Outgoing.MarkPublished, each kind fenced by its number; confirm: with FirstLook.
func (s *sim) markPublished(acked []simAnswer, confirm bool) {
	for _, a := range acked {
		switch row := s.row(a.row); a.kind {
		case results.Final:
			if row.settledAt != never && !row.published && (row.revision == a.number || s.broken(markNotFenced)) {
				if row.published = true; confirm {
					s.owesSetup(row)
				}
			}
		case results.SetupWord:
			if d := s.setup(a.row); d != nil && d.word != "" {
				d.published = true
			}
		case results.Announcement:
			if row.attempt == a.number && row.state == request.Uncertain && row.forPerson != never {
				row.announced = true
			}
		default:
			for i := range s.repeats {
				if r := &s.repeats[i]; r.sequence == a.number && r.conflict == (a.kind == results.Malformation) && r.publishedAt == never {
					r.publishedAt = s.now
				}
			}
		}
	}
}

// undecidedEnd: undecidedEnd.
func undecidedEndOf(r *simRow) bool {
	return r.state.Final() && r.state != request.Created && r.attempt > 0 && (r.undecided || r.reason == "undecided")
}

// unsentEndOf: unsentEnd.
func unsentEndOf(r *simRow) bool {
	return r.state.Final() && r.state != request.Created && !r.faults
}

// retry: Store.Do with ToRetry. Here no request has a not_before in its text.
func (s *sim) retry(r *simRow, unverified bool) bool {
	if !unsentEndOf(r) && (r.state != request.Pending || r.dueAt <= s.now) {
		return false
	}
	was, doubtful := r.state, undecidedEndOf(r)
	first := doubtful && !unverified
	r.state, r.dueAt = request.Pending, s.now
	began := r.receivedAt
	if first {
		r.state, r.lookups = request.Uncertain, 0
		if slices.ContainsFunc(s.histories, func(h simHistory) bool {
			return h.row == r.id && !h.lookup && h.number == r.attempt && h.outcome == "lost"
		}) {
			r.reason, r.receivedAt = "lost", min(r.receivedAt, r.beganAt)
		}
		if r.uncertainSince == never {
			r.uncertainSince = r.settledAt
		}
	}
	if r.beganAt == never {
		r.beganAt = began
	}
	r.undecided = r.undecided || !first && doubtful
	r.cancelled = false
	if was != request.Pending {
		r.uncounted = r.attempt
		r.revision++
		if r.expiresAt <= s.now {
			r.expiresAt = never
		}
	}
	r.settledAt, r.published, r.announced, r.resolvedBy = never, false, false, ""
	return true
}

// cancel: Store.Do with ToCancel. What is uncertain, or was sent again undecided, may exist.
func (s *sim) cancel(r *simRow) bool {
	unsent := r.state == request.Pending && !r.undecided
	if s.broken(cancelInFlight) && r.state == request.Sending {
		r.leasedUntil, unsent = never, true
	} else if r.state != request.Pending && (r.state != request.Uncertain || r.cancelled) {
		return false
	}
	r.lookups++
	if r.beganAt == never {
		r.beganAt = r.receivedAt
	}
	if r.uncertainSince == never {
		r.uncertainSince = s.now
	}
	if r.reason == "" {
		r.reason = "cancelled"
	}
	if unsent {
		r.state, r.dueAt, r.settledAt, r.resolvedBy = request.Cancelled, never, s.now, "operator"
		return true
	}
	if r.state == request.Pending {
		r.dueAt = s.now
	}
	r.state, r.cancelled = request.Uncertain, true
	return true
}

// lookUpNow: Store.Do with ToLookUp.
func (s *sim) lookUpNow(r *simRow) bool {
	if r.state != request.Uncertain {
		return false
	}
	r.dueAt = s.now
	return true
}

// republish: Store.Do with ToRepublish.
func (s *sim) republish(r *simRow) bool {
	if r.settledAt == never || !r.published {
		return false
	}
	r.published = false
	return true
}

// resolveCreated: Desk.Resolve.
func (s *sim) resolveCreated(r *simRow, sid string) bool {
	if r.state != request.Uncertain || s.owner(r.id, sid) != nil {
		return false
	}
	r.state, r.dueAt, r.sid, r.settledAt, r.forPerson, r.endsAs, r.resolvedBy, r.reason = request.Created, never, sid, s.now, never, "", "operator", ""
	return true
}

// resolveAbsent: Desk.Resolve.
func (s *sim) resolveAbsent(r *simRow) bool {
	if r.state != request.Uncertain {
		return false
	}
	end := r.endsAs
	if end == "" && r.expiresAt != never && r.expiresAt <= s.now {
		end = request.Expired
	}
	switch {
	case end == "":
		r.reason = "absent"
	case end != request.Rejected:
		r.reason = string(end)
	case r.status != 0:
		r.reason = fmt.Sprintf("http_%d", r.status)
	}
	if r.cancelled {
		end = request.Cancelled
	}
	r.state, r.dueAt, r.forPerson, r.endsAs, r.resolvedBy = request.Pending, s.now, never, "", ""
	if end != "" {
		r.state, r.dueAt, r.settledAt, r.resolvedBy = end, never, s.now, "operator"
	}
	r.undecided = true // unverified
	return true
}

// hold: Store.Hold.
func (s *sim) hold() {
	if s.gate.heldSince == never {
		s.gate.heldSince = s.now
	}
}

// release: Desk.Release. An open gate stays as it is, with a pause that is over.
func (s *sim) release() {
	if s.gate.heldSince != never || s.gate.pausedUntil > s.now {
		s.gate.heldSince, s.gate.pausedUntil = never, never
	}
	for i := range s.rows {
		if r := &s.rows[i]; r.state == request.Pending && r.attempt > 0 && r.status == 429 && r.dueAt > s.now {
			r.dueAt = s.now
		}
	}
}

// recheck: Store.Recheck. It is refused while nobody holds the fleet, or calls are under way.
func (s *sim) recheck(since instant, attribute string) bool {
	if s.gate.heldSince == never || slices.ContainsFunc(s.rows, func(r simRow) bool { return r.state == request.Sending && r.leasedUntil > s.now }) {
		return false
	}
	for i := range s.rows {
		r := &s.rows[i]
		was, settled := r.state, unsentEndOf(r)
		if !settled && was.Final() {
			continue
		}
		open := was == request.Sending || was == request.Uncertain || r.undecided || undecidedEndOf(r)
		under := ""
		if r.key != "" {
			if under = attribute; open && r.attribute != "" {
				under = r.attribute
			}
		}
		came := min(r.receivedAt, r.streamAt, s.now)
		for _, again := range s.repeats {
			if again.row == r.id && !again.conflict {
				came = min(came, again.streamAt)
			}
		}
		numbered := settled || was == request.Pending
		if numbered {
			r.attempt++
			r.uncounted++
		}
		if r.receivedAt >= since && !settled {
			r.receivedAt = came
		}
		if began := max(since, came); open && r.beganAt != never {
			r.beganAt = min(r.beganAt, began)
		} else {
			r.beganAt = began
		}
		r.uncertainSince = s.now
		if r.lookups++; was != request.Uncertain {
			r.lookups = 0
		}
		r.answered = r.answered && open && (was != request.Sending || r.undecided) || open && r.key != "" && r.attribute != attribute
		r.undecided = r.undecided || settled
		r.announced = r.announced && (settled || was == request.Uncertain)
		r.attribute = under
		r.dueAt = never
		if r.leasedUntil = never; settled {
			r.forPerson = never
		} else {
			if r.state, r.reason, r.status = request.Uncertain, "lost", 0; under != "" {
				r.dueAt = s.now
			} else if r.forPerson == never {
				r.forPerson = s.now
			}
		}
		switch {
		case was == request.Sending:
			s.tell(simHistory{row: r.id, number: r.attempt, outcome: "lapsed", applied: true, by: r.leasedBy, token: r.token})
		case was != request.Uncertain:
			s.tell(simHistory{row: r.id, number: r.attempt, outcome: "lost", applied: true})
		}
		r.leasedBy = 0
	}
	return true
}

// prune: Upkeep.PruneFrom, from the front, and Upkeep.PruneMalformed. It returns the requests that went.
func (s *sim) prune(retention time.Duration) (gone []int) {
	since := s.now - retention
	s.rows = slices.DeleteFunc(s.rows, func(r simRow) bool {
		stays := !r.published || r.settledAt >= since || r.streamAt >= since || slices.ContainsFunc(s.repeats, func(again simRepeat) bool {
			return again.row == r.id && !again.conflict && (again.publishedAt == never || again.streamAt >= since)
		})
		if d := s.setup(r.id); d != nil && d.word != "" && !d.published {
			stays = true
		}
		if !stays {
			gone = append(gone, r.id)
		}
		return !stays
	})
	s.histories = slices.DeleteFunc(s.histories, func(h simHistory) bool { return slices.Contains(gone, h.row) })
	s.setups = slices.DeleteFunc(s.setups, func(d simSetup) bool { return slices.Contains(gone, d.row) })
	s.repeats = slices.DeleteFunc(s.repeats, func(r simRepeat) bool {
		if r.conflict {
			return r.publishedAt != never && r.publishedAt < since && r.streamAt < since
		}
		return slices.Contains(gone, r.row)
	})
	return gone
}
