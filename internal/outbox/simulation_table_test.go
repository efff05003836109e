package outbox

import (
	"slices"
	"time"

	"flexworker/internal/outbox/gate"
	"flexworker/internal/outbox/lookup"
	"flexworker/internal/outbox/request"
	"flexworker/internal/outbox/results"
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
	key            string // lookup_key; "": no task to look for
	receivedAt     instant
	dueAt          instant
	expiresAt      instant
	attempt        int
	spared         int
	leasedBy       int
	signature      int // of the latest lease: the number in leased_by, then in the history of its lapse
	leasedUntil    instant
	beganAt        instant // attempt_began_at
	lookups        int
	uncertainSince instant
	answered       bool
	undecided      bool
	attribute      string // lookup_attribute
	lookedAt       instant
	forPerson      instant // for_person_since
	cancelled      bool    // cancel_requested_at
	endsAs         request.State
	byResponse     bool // resolved_by
	sid            string
	settlement     int
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
	row, sequence       int
	conflict, published bool
}

// insert: Store.insert. INSERT ... ON CONFLICT (request_id) DO NOTHING. by has a
// slot free for it, or is 0; then the gate is asked as by a claim.
func (s *sim) insert(m *simMessage, by, signature int) (fresh bool, leased *simRow) {
	for i := range s.rows {
		if s.rows[i].id == m.request {
			return false, nil
		}
	}
	r := simRow{id: m.request, state: request.Pending, key: simKeys[m.request], dueAt: s.now, expiresAt: m.expiresAt, leasedUntil: never,
		receivedAt: s.now, beganAt: never, forPerson: never, uncertainSince: never, settlement: 1, settledAt: never, sequence: m.sequence}
	if m.noTask {
		r.key = ""
	}
	if m.faults {
		r.state, r.dueAt, r.settledAt = request.Rejected, never, s.now
	} else if by != 0 && m.expiresAt == never && s.passes() == gate.Open {
		r.state, r.dueAt, r.attempt, r.leasedBy, r.signature, r.leasedUntil = request.Sending, never, 1, by, signature, s.now+s.leaseOf(by)
		r.beganAt, r.attribute = s.now, s.attributeOf(by)
	}
	s.rows = append(s.rows, r)
	if r.state == request.Sending {
		leased = &s.rows[len(s.rows)-1]
	}
	return true, leased
}

// repeat: Store.repeat. What is known is redelivered, asked again, or in conflict.
func (s *sim) repeat(m *simMessage) {
	row := s.row(m.request)
	if row.sequence == m.sequence {
		return
	}
	for _, r := range s.repeats { // ON CONFLICT ON CONSTRAINT repeat_is_kept_once, message_is_kept_once
		if r.sequence == m.sequence {
			return
		}
	}
	s.repeats = append(s.repeats, simRepeat{row: m.request, sequence: m.sequence, conflict: m.other})
}

func (s *sim) row(id int) *simRow {
	for i := range s.rows {
		if s.rows[i].id == id {
			return &s.rows[i]
		}
	}
	return nil
}

// passes: gateSQL, without a rate.
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

// claim: Store.claim. pending -> sending.
func (s *sim) claim(by, signature, slots int) (leased []*simRow, state gate.State) {
	if shut := s.passes(); shut != gate.Open {
		return nil, shut
	}
	for _, row := range s.inOrder(func(r *simRow) (bool, instant) {
		return r.state == request.Pending && r.dueAt <= s.now && (r.expiresAt == never || r.expiresAt > s.now), r.dueAt
	}, slots) {
		row.state, row.dueAt = request.Sending, never
		row.attempt++
		row.leasedBy, row.signature, row.leasedUntil = by, signature, s.now+s.leaseOf(by)
		if row.beganAt == never || !row.undecided || s.broken(beganWithTheLatest) {
			row.beganAt = s.now
		}
		row.answered = row.answered || row.undecided && row.key != "" && row.attribute != s.attributeOf(by)
		row.attribute = s.attributeOf(by)
		leased = append(leased, row)
	}
	return leased, gate.Open
}

// takeBack: Store.takeBack. sending, or lapsed -> pending, for what bears the signature.
func (s *sim) takeBack(by, signature int) (n int) {
	for i := range s.rows {
		row := &s.rows[i]
		its := row.signature == signature
		if s.broken(takeBackNotFenced) {
			its = row.leasedBy == by
		}
		if !its || row.state != request.Sending && row.state != request.Uncertain || row.endsAs != "" || row.undecided && row.cancelled {
			continue
		}
		n++
		row.lookups++ // CASE WHEN o.state = 'uncertain' THEN o.lookups + 1 ELSE 0 END
		if row.state == request.Sending {
			row.lookups = 0
		}
		row.state, row.leasedBy, row.leasedUntil, row.dueAt = request.Pending, 0, never, s.now
		if row.cancelled {
			row.state, row.dueAt, row.settledAt = request.Cancelled, never, s.now
		}
		row.spared = min(row.spared+1, row.attempt)
		row.answered, row.announced, row.forPerson = row.undecided && row.answered, false, never
	}
	return n
}

// inOrder are at most n rows for which where says yes, in the order it gives.
func (s *sim) inOrder(where func(*simRow) (bool, instant), n int) []*simRow {
	var chosen []*simRow
	for i := range s.rows {
		if ok, _ := where(&s.rows[i]); ok {
			chosen = append(chosen, &s.rows[i])
		}
	}
	if len(chosen) > 1 {
		slices.SortStableFunc(chosen, func(a, b *simRow) int {
			_, x := where(a)
			_, y := where(b)
			return int(x - y)
		})
	}
	return chosen[:min(n, len(chosen))]
}

// record: recordSQL and pauseGate. sending, or uncertain still of this attempt -> what was decided.
func (s *sim) record(r record) (applied bool, done *simRow) {
	if r.pause > 0 { // pauseGate
		s.gate.pausedUntil = max(s.gate.pausedUntil, s.now+r.pause)
	}
	row := s.row(int(r.lease.ID))
	fits := row.attempt == r.lease.Attempt && (row.state == request.Sending || row.state == request.Uncertain && row.endsAs == "" || (row.state == request.Pending || row.state == request.Uncertain) && s.late(r))
	if s.broken(recordNotFenced) {
		fits = row.state == request.Sending || row.state == request.Uncertain
	}
	if s.broken(recordOverAnything) {
		fits = row.attempt == r.lease.Attempt
	}
	if !fits {
		return false, nil
	}
	o, m := r.told, r.move
	since := s.now // least(clock_timestamp(), coalesce(o.leased_until, o.uncertain_since))
	if bound := row.leasedUntil; bound != never {
		since = min(since, bound)
	} else {
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
	}
	if m.Uncounted {
		row.spared = min(row.spared+1, row.attempt)
	}
	row.sid = o.InteractionSID
	if m.To == request.Uncertain && (m.EndsAs == "" || row.uncertainSince == never) {
		row.uncertainSince = since
	}
	row.answered = o.Answered && o.Kind == 0 || row.undecided && row.answered
	row.endsAs = m.EndsAs
	row.byResponse = to == request.Created || to == request.Rejected
	if to.Final() {
		row.settledAt = s.now
	}
	return true, row
}

// late: what still moves a request that is pending again after the same attempt.
func (s *sim) late(r record) bool {
	answered := r.told.Answered && r.told.Kind == 0 && !s.broken(lateAnswerIsLost)
	return r.move.To == request.Created || r.move.To == request.Rejected || answered || r.move.EndsAs != ""
}

// lapse: Store.lapse. sending -> uncertain, where the lease ran out.
func (s *sim) lapse() (n int) {
	for i := range s.rows {
		r := &s.rows[i]
		if r.state != request.Sending || r.leasedUntil >= s.now {
			continue
		}
		n++
		r.state, r.dueAt, r.uncertainSince = request.Uncertain, s.now+lapsedRest, r.leasedUntil
		r.leasedBy, r.leasedUntil = 0, never
		r.answered, r.lookups, r.announced = r.undecided && r.answered, 0, false
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
		r.announced = false
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
	due := func(r *simRow) (bool, instant) {
		return r.state == request.Uncertain && r.dueAt != never && r.dueAt <= s.now && (r.key == "" || s.gate.lookupAt <= s.now), r.dueAt + (r.forPerson+1)<<20
	}
	first := s.inOrder(due, 1)
	if len(first) == 0 {
		return q
	}
	if first[0].key != "" {
		q.Workspace, q.Attribute = "WS", first[0].attribute
		if q.Attribute == own {
			q.Control = seen.Key(q.Workspace, simStart.Add(s.now))
		}
	}
	at := *first[0]
	for _, r := range s.inOrder(func(r *simRow) (bool, instant) {
		ok, when := due(r)
		return ok && (r.key == "") == (q.Workspace == "") && (r.key == "" || r.attribute == q.Attribute) && r.beganAt >= at.beganAt-lookup.LookupSpan &&
			r.uncertainSince >= at.uncertainSince-lookup.LookupSpan && r.uncertainSince <= at.uncertainSince+lookup.LookupSpan, when
	}, most) {
		r.dueAt = s.now + lookup.LookupLimit
		r.lookups++
		r.lookedAt = s.now
		if r.key == q.Control {
			q.Control = ""
		}
		u := lookup.Input{ID: int64(r.id), LookupKey: r.key, Attempt: r.attempt, Uncounted: r.spared, Lookups: r.lookups,
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
	for _, r := range s.inOrder(func(r *simRow) (bool, instant) {
		return r.state == request.Created && r.byResponse && r.key != "" && r.attribute == q.Attribute && r.settledAt > after+q.Settle && r.beganAt > after+q.Settle && !r.undecided, r.settledAt
	}, 1) {
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
func (s *sim) resolve(u lookup.Input, f request.Finding, m request.Move) *simRow {
	row := s.row(int(u.ID))
	if row.attempt != u.Attempt || row.state != request.Uncertain || row.lookups != u.Lookups && !s.broken(resolveNotFenced) {
		return nil
	}
	if m.To == request.Pending && row.cancelled && !s.broken(cancelledIsSent) {
		return nil
	}
	row.state, row.dueAt = m.To, never
	if (m.To == request.Pending || m.To == request.Uncertain) && (!m.Person || u.LookupKey != "") {
		row.dueAt = s.now + m.Delay
	}
	row.sid, row.byResponse = f.Outcome.InteractionSID, m.To == request.Rejected
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

// strays: Store.strays and asking.
func (s *sim) strays() (answers []simAnswer) {
	for i := range s.rows {
		r := &s.rows[i]
		if r.settledAt != never && !r.published && r.settledAt < s.now-results.StrayAge ||
			r.state == request.Uncertain && r.forPerson != never && !r.announced {
			answers = append(answers, answerOf(r))
		}
	}
	for _, r := range s.repeats {
		switch row := s.row(r.row); {
		case r.published:
		case r.conflict:
			answers = append(answers, simAnswer{kind: results.Malformation, row: r.row, number: r.sequence})
		case row.settledAt != never: // askingAgain
			answers = append(answers, simAnswer{kind: results.Repetition, row: r.row, number: r.sequence, state: row.state, sid: row.sid})
		}
	}
	return answers
}

// answerOf: settlement.answer.
func answerOf(r *simRow) simAnswer {
	if !r.state.Final() {
		return simAnswer{kind: results.Announcement, row: r.id, number: r.attempt, settlement: r.settlement, state: r.state}
	}
	return simAnswer{kind: results.Final, row: r.id, number: r.settlement, state: r.state, sid: r.sid}
}

// markPublished: Store.markPublished, each kind fenced by its number.
func (s *sim) markPublished(acked []simAnswer) {
	for _, a := range acked {
		switch row := s.row(a.row); a.kind {
		case results.Final:
			if row.settledAt != never && (row.settlement == a.number || s.broken(markNotFenced)) {
				row.published = true
			}
		case results.Announcement:
			if row.attempt == a.number && row.state == request.Uncertain && row.forPerson != never {
				row.announced = true
			}
		default:
			for i := range s.repeats {
				if s.repeats[i].sequence == a.number {
					s.repeats[i].published = true
				}
			}
		}
	}
}

// retry: Store.Retry.
func (s *sim) retry(r *simRow, faults, undecided bool) bool {
	if !r.state.Final() || r.state == request.Created || faults {
		return false
	}
	r.state, r.dueAt, r.settledAt, r.published, r.announced = request.Pending, s.now, never, false, false
	r.undecided = r.undecided || undecided
	r.cancelled = false
	r.settlement++
	r.spared = r.attempt
	if r.expiresAt <= s.now {
		r.expiresAt = never
	}
	return true
}

// cancel: Store.Cancel. What is uncertain, or was sent again undecided, may exist.
func (s *sim) cancel(r *simRow) bool {
	if r.state == request.Uncertain && !r.cancelled {
		r.cancelled = true
		return true
	}
	if r.state == request.Pending && r.undecided {
		r.state, r.dueAt, r.cancelled, r.announced = request.Uncertain, s.now, true, false
		r.lookups++
		return true
	}
	if unsent := r.state == request.Pending || s.broken(cancelInFlight) && r.state == request.Sending; !unsent {
		return false
	}
	r.state, r.dueAt, r.leasedUntil, r.settledAt = request.Cancelled, never, never, s.now
	return true
}

// resolveCreated: Store.ResolveCreated.
func (s *sim) resolveCreated(r *simRow, sid string) bool {
	if r.state != request.Uncertain {
		return false
	}
	r.state, r.dueAt, r.sid, r.settledAt, r.forPerson, r.endsAs, r.byResponse = request.Created, never, sid, s.now, never, "", false
	return true
}

// resolveAbsent: Store.ResolveAbsent.
func (s *sim) resolveAbsent(r *simRow) bool {
	if r.state != request.Uncertain {
		return false
	}
	end := r.endsAs
	if r.cancelled {
		end = request.Cancelled
	}
	r.state, r.dueAt, r.forPerson, r.endsAs = request.Pending, s.now, never, ""
	if end != "" {
		r.state, r.dueAt, r.settledAt = end, never, s.now
	}
	r.undecided = true // unverified
	return true
}
