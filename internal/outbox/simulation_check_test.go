package outbox

import (
	"slices"

	"flexworker/internal/flex"
	"flexworker/internal/outbox/request"
	"flexworker/internal/outbox/results"
)

// The invariants of the simulation.

// simGhost is what nobody in the world knows of a request.
type simGhost struct {
	person  bool // it may exist twice: a person said absent, or the policy retries what nobody knows
	retried bool // by a person: what was final may move once
	// what the row was after the step before
	state    request.State
	attempt  int
	sid      string
	settled  int
	undecide bool // abandoned by UNCERTAIN_POLICY, or ended by a person's word: it may exist
}

// check holds after every step.
func (s *sim) check() {
	for i := range s.rows {
		row := &s.rows[i]
		g := &s.ghosts[row.id]
		created, sid := 0, false
		for j := range s.flex.tasks {
			if t := &s.flex.tasks[j]; t.request == row.id {
				created++
				sid = sid || t.sid == row.sid
			}
		}
		switch {
		// I2
		case created > 1 && !g.person:
			s.fail("I2: request %d was created %d times", row.id, created)
		// I4
		case row.state == request.Created && !sid:
			s.fail("I4: request %d is created as %q, which Flex did not create for it", row.id, row.sid)
		// I5, and of pending the same. What is sent again undecided is not rejected, expired
		// or cancelled either before that is found out.
		case created > 0 && row.state.Final() && row.state != request.Created && !g.undecide,
			created > 0 && row.state == request.Pending && !g.person:
			s.fail("I5: request %d is %s and exists", row.id, row.state)
		// I9
		case row.attempt-row.uncounted > s.policy.MaxAttempts && !g.person:
			s.fail("I9: request %d has %d counted attempts of %d", row.id, row.attempt-row.uncounted, s.policy.MaxAttempts)
		case row.uncounted > row.attempt:
			s.fail("I9: request %d has more uncounted attempts than attempts", row.id)
		}
		s.checkShape(row, g)
		g.state, g.attempt, g.sid, g.settled, g.retried = row.state, row.attempt, row.sid, row.revision, false
	}
}

// checkShape is what the schema's constraints say, and what never changes.
func (s *sim) checkShape(row *simRow, g *simGhost) {
	switch {
	case (row.state == request.Sending) != (row.leasedUntil != never):
		s.fail("lease_while_sending: %+v", *row)
	case row.state == request.Pending && row.dueAt == never, row.state != request.Pending && row.state != request.Uncertain && row.dueAt != never:
		s.fail("due_while_pending: %+v", *row)
	case row.state.Final() != (row.settledAt != never):
		s.fail("state_is_known_and_settled_when_final: %+v", *row)
	case (row.state == request.Created) != (row.sid != ""):
		s.fail("sid_and_resolver_when_created: %+v", *row)
	case row.state != request.Uncertain && (row.forPerson != never || row.endsAs != ""):
		s.fail("person_and_end_only_while_uncertain: %+v", *row)
	case row.cancelled && (row.state == request.Pending || row.state == request.Sending):
		s.fail("cancelled_is_never_sent: %+v", *row)
	case row.published && row.settledAt == never:
		s.fail("published_and_erased_after_settled: %+v", *row)
	case g.state == "":
	case g.state.Final() && row.state != g.state && !g.retried:
		s.fail("request %d was %s for good and is %s", row.id, g.state, row.state)
	case row.attempt < g.attempt, row.attempt > g.attempt+1, row.revision < g.settled:
		s.fail("request %d: a number went back, or on by more than one: %+v", row.id, *row)
	case g.sid != "" && row.sid != g.sid:
		s.fail("request %d was %s and is %s", row.id, g.sid, row.sid)
	}
}

// checkSend: a call begins only under a lease that stands.
func (s *sim) checkSend(r *simReplica, l *simLease) {
	row := s.row(int(l.lease.ID))
	if row.state != request.Sending || row.attempt != l.lease.Attempt || row.leasedBy != r.number {
		s.fail("a call begins for request %d, attempt %d, whose lease does not stand: %+v", row.id, l.lease.Attempt, *row)
	}
	if s.now+s.limitOf(r.number) > row.leasedUntil {
		s.fail("the call for request %d may outlive its lease", row.id)
	}
}

// checkRecord: I6, and what an answer proved.
func (s *sim) checkRecord(l *simLease, row *simRow) {
	switch {
	case row == nil:
	case row.state == request.Uncertain && row.undecided: // for an earlier attempt
	case row.state == request.Uncertain && !l.sent:
		s.fail("I6: request %d is uncertain, and no call was made", row.id)
	case row.state == request.Uncertain && l.outcome.Unreached:
		s.fail("I6: request %d is uncertain, and not a byte was written", row.id)
	case l.outcome.Kind == flex.Blocked && row.state == request.Pending && s.ghosts[row.id].state != "" && !l.decided.Move.Uncounted &&
		(!flex.MayBeOneTenants(l.outcome) || l.lease.Uncounted < s.policy.MaxAttempts):
		s.fail("I9: a blocked attempt of request %d is counted", row.id)
	}
}

// checkResolve: what leads back to pending is proved absent, or a policy that says so.
func (s *sim) checkResolve(row *simRow, d request.LookupInput, f request.Finding, m request.Move) {
	proved := f.Kind == request.Absent && d.Age >= s.policy.Settle && !d.Answered
	switch {
	case m.To == request.Pending && !proved && s.policy.Undecided != request.Retry:
		s.fail("request %d goes back to pending on %s after %v, answered %t", row.id, f.Kind, d.Age, d.Answered)
	case m.To == request.Pending && !proved:
		s.ghosts[row.id].person = true
	case m.To == request.Abandoned && !proved:
		s.ghosts[row.id].undecide = true
	case m.To.Final() && m.To != request.Created && !proved:
		s.fail("request %d becomes %s on %s after %v, answered %t", row.id, m.To, f.Kind, d.Age, d.Answered)
	}
}

// checkResult: I8. A result tells what is committed.
func (s *sim) checkResult(a simAnswer) {
	row := s.row(a.row)
	if d := s.setup(a.row); a.kind == results.SetupWord && (d == nil || string(d.word) != string(a.state)) {
		s.fail("I8: the word %+v, while the set-up is %+v", a, d)
	}
	if a.kind != results.Final || row == nil {
		if row == nil {
			s.fail("I8: a result of request %d, which has no row", a.row)
		}
		return
	}
	if a.number > row.revision || a.number == row.revision && (row.state != a.state || row.sid != a.sid) {
		s.fail("I8: the result %+v, while the row is %+v", a, *row)
	}
}

// checkEnd: when all has healed and nothing moves any more.
func (s *sim) checkEnd() {
	for i := range s.stream { // I1
		m := &s.stream[i]
		row := s.row(m.request)
		switch {
		case !m.acked:
			s.fail("I1: message %d is never acked", m.sequence)
		case row == nil:
			s.fail("I1: message %d is acked and has no row", m.sequence)
		case row.sequence != m.sequence && !slices.ContainsFunc(s.repeats, func(r simRepeat) bool { return r.sequence == m.sequence }):
			s.fail("I1: message %d is acked and answered by nobody", m.sequence)
		}
	}
	for i := range s.rows {
		row := &s.rows[i]
		switch { // I3
		case row.state.Final():
			n := 0
			for _, r := range s.results { // I7
				if r.kind == results.Final && r.row == row.id && r.number == row.revision && r.state == row.state && r.sid == row.sid {
					n++
				}
			}
			if n != 1 || !row.published {
				s.fail("I7: request %d has %d results of its %s, published %t", row.id, n, row.state, row.published)
			}
		case row.state == request.Uncertain && row.forPerson != never && row.announced:
			older := slices.ContainsFunc(s.flex.tasks, func(t simTask) bool { return t.request < 0 && t.key == row.key })
			if row.key != "" && row.lookedAt <= s.healedAt {
				s.fail("I3: request %d waits for a person and is not looked up", row.id)
			}
			if (s.policy.Undecided == request.Fail || s.policy.Undecided == request.Retry) && !older {
				s.fail("I3: request %d waits for a person, and the policy is %s", row.id, s.policy.Undecided)
			}
			if !slices.ContainsFunc(s.results, func(r simResult) bool {
				return r.kind == results.Announcement && r.row == row.id && r.number == row.attempt
			}) {
				s.fail("I7: nobody was told that request %d waits for a person", row.id)
			}
		default:
			s.fail("I3: request %d is stuck: %+v", row.id, *row)
		}
	}
	for _, r := range s.repeats {
		if row := s.row(r.row); r.publishedAt == never && (r.conflict || row.settledAt != never) {
			s.fail("I7: message %d asked again and is not answered", r.sequence)
		}
	}
}
