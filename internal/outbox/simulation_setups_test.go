package outbox

import (
	"cmp"
	"errors"
	"slices"
	"time"

	"flexworker/internal/flex"
	"flexworker/internal/outbox/gate"
	"flexworker/internal/outbox/request"
	"flexworker/internal/outbox/results"
	"flexworker/internal/outbox/setup"
)

// CONFIRM in the simulation: the mirrors of the statements about set-ups, the steps of a Confirmer, what Flex shows it,
// and what must hold of the words.

// simSetup is a row of outbox_setups.
type simSetup struct {
	row, checks      int
	createdAt, dueAt instant
	word             setup.Word
	kind             string // error_kind
	published        bool
}

// simConfirmation is the row of outbox_confirmation.
type simConfirmation struct {
	readAt   instant // never: -infinity
	refused  int
	offSince instant
}

func (s *sim) setup(row int) *simSetup {
	for i := range s.setups {
		if s.setups[i].row == row {
			return &s.setups[i]
		}
	}
	return nil
}

// owesSetup: markForSetupSQL. What is created, and was told so, gets a row, once.
func (s *sim) owesSetup(row *simRow) {
	if row.state != request.Created || s.setup(row.id) != nil || s.broken(setupApart) && s.r.IntN(3) == 0 {
		return
	}
	s.setups = append(s.setups, simSetup{row: row.id, createdAt: row.settledAt, dueAt: row.settledAt + setup.FirstLook})
}

// dueSetups are the rows at which a look is due, those first that are due longest.
func (s *sim) dueSetups(most int) (due []*simSetup) {
	for i := range s.setups {
		if d := &s.setups[i]; d.word == "" && d.dueAt != never && d.dueAt <= s.now {
			due = append(due, d)
		}
	}
	slices.SortStableFunc(due, func(a, b *simSetup) int { return cmp.Compare(a.dueAt, b.dueAt) })
	return due[:min(most, len(due))]
}

// takeSetups: Setups.Take. All requests here name participants, and none has a task that could be read.
func (s *sim) takeSetups(rate float64) (t setup.Take) {
	c := &s.confirmation
	if t.Off = c.offSince != never; c.readAt > s.now {
		t.Wait = c.readAt - s.now
		return t
	}
	if len(s.dueSetups(1)) == 0 || s.gate.pausedUntil > s.now {
		return t
	}
	most := max(1, min(int(rate/3), 32))
	if t.Off {
		most = 1
	}
	for _, d := range s.dueSetups(most) {
		d.dueAt = s.now + setup.LookLimit
		if s.broken(lookedAtOnce) {
			d.dueAt = never
		}
		t.Due = append(t.Due, setup.Due{ID: int64(d.row), InteractionSID: s.row(d.row).sid, Named: true, Checks: d.checks, Age: s.now - d.createdAt})
	}
	t.Wait = time.Duration(float64(2*len(t.Due)) / rate * float64(time.Second))
	c.readAt = s.now + t.Wait
	return t
}

// storeSetup: Setups.Store.
func (s *sim) storeSetup(d setup.Due, v setup.Verdict, next time.Duration) bool {
	row := s.setup(int(d.ID))
	if row == nil || (row.checks != d.Checks || row.word != "") && !s.broken(wordNotFenced) {
		return false
	}
	row.checks++
	row.word, row.kind, row.dueAt = v.Word, v.Kind, never
	if v.Word == "" {
		row.dueAt = s.now + next
	}
	return true
}

// limitSetups: Setups.Limit.
func (s *sim) limitSetups(d setup.Due, wait time.Duration) {
	if row := s.setup(int(d.ID)); row != nil && row.checks == d.Checks && row.word == "" {
		row.dueAt = s.now + min(wait, time.Minute)
	}
	s.confirmation.readAt = max(s.confirmation.readAt, s.now+min(wait, request.MaxRetryAfter))
}

// refusedSetup: Setups.Refused.
func (s *sim) refusedSetup() int {
	s.confirmation.refused++
	return s.confirmation.refused
}

// turnOffSetups: Setups.TurnOff.
func (s *sim) turnOffSetups() (was bool) {
	c := &s.confirmation
	if was = c.offSince == never; was {
		c.offSince = s.now
	}
	c.readAt = s.now + setup.RetryOff
	return was
}

// answeredSetup: Setups.Answered.
func (s *sim) answeredSetup() (was bool) {
	c := &s.confirmation
	if was = c.offSince != never; was {
		c.readAt = s.now
	}
	c.refused, c.offSince = 0, never
	return was
}

// giveUpSetups: Setups.GiveUp.
func (s *sim) giveUpSetups() (n int) {
	if s.confirmation.offSince == never {
		return 0
	}
	for _, d := range s.dueSetups(len(s.setups)) {
		d.word, d.dueAt = setup.Unconfirmed, never
		n++
	}
	return n
}

// wordOf is the answer with the word of a set-up: Outgoing.words.
func (s *sim) wordOf(d *simSetup) simAnswer {
	return simAnswer{kind: results.SetupWord, row: d.row, state: request.State(d.word), sid: s.row(d.row).sid}
}

// simLook is a look in the hands of a replica.
type simLook struct {
	due   setup.Due
	taken instant
	seen  *setup.Look // nil: Flex was not asked yet
}

// stepTakeSetups: Confirmer.Turn up to the looks.
func (s *sim) stepTakeSetups(r *simReplica) bool {
	if !s.confirm || s.away || r.draining || len(r.looks) > 0 {
		return false
	}
	t := s.takeSetups(1000)
	if r.off = t.Off; t.Off && len(t.Due) == 0 {
		return s.giveUpSetups() > 0
	}
	for _, d := range t.Due {
		s.log("%d takes the set-up of %d, look %d, %v after its creation", r.number, d.ID, d.Checks+1, d.Age)
		r.looks = append(r.looks, simLook{due: d, taken: s.now})
	}
	return len(t.Due) > 0
}

// stepLook: Confirmer.look, which ends before the look is due again.
func (s *sim) stepLook(r *simReplica) bool {
	for i := range r.looks {
		l := &r.looks[i]
		if l.seen != nil {
			continue
		}
		if s.now-l.taken > setup.LookLimit-setup.ReadLimit {
			r.looks = slices.Delete(r.looks, i, i+1)
			return true
		}
		l.due.Age += s.now - l.taken
		seen := s.shows(l.due)
		l.seen = &seen
		return true
	}
	return false
}

// stepKeepLook: Confirmer.lookAt, once the look was made.
func (s *sim) stepKeepLook(r *simReplica) bool {
	if s.away || len(r.looks) == 0 || r.looks[0].seen == nil {
		return false
	}
	d, l := r.looks[0].due, *r.looks[0].seen
	r.looks = r.looks[1:]
	lost, made := s.lost()
	var e *flex.LookupError
	errors.As(l.ChannelErr, &e)
	switch {
	case lost && !made:
		return true
	case e != nil && e.Limited && d.Age < time.Hour:
		s.limitSetups(d, e.RetryAfter)
		return true
	case e == nil:
		s.answeredSetup()
		r.off = false
	case e.Refused() && (d.Checks == 0 || r.off):
		if s.flex.denied { // Confirmer.heed: the credentials are refused, not the read
			return true
		}
		if s.refusedSetup() >= setup.RefusedMost {
			s.turnOffSetups()
			r.off = true
		}
	}
	v, next := l.After(d.Checks+1, d.Age)
	was := s.setup(int(d.ID)).word
	stored := s.storeSetup(d, v, next)
	s.log("%d stores look %d at %d: %q, %s, stored %t", r.number, d.Checks+1, d.ID, v.Word, v.Why, stored)
	if stored {
		s.checkWord(d, was, v.Word)
	}
	return true
}

// simFate is what becomes of the set-up of an interaction. The zero value: it is set up, with its customer.
type simFate int

const (
	setUp simFate = iota
	channelFailed
	noCustomer
	taskCanceled
	stuck
)

// What Flex says to the reads of set-ups.
const (
	showsSetups = iota
	timesSetupsOut
	refusesSetups
	limitsSetups
)

// shows is what Flex shows of the set-up of a request.
func (s *sim) shows(d setup.Due) setup.Look {
	l := setup.Look{Named: d.Named, HasTask: true}
	switch s.flex.setups {
	case timesSetupsOut:
		l.ChannelErr = &flex.LookupError{ErrorKind: "timeout"}
		return l
	case refusesSetups:
		l.ChannelErr = &flex.LookupError{ErrorKind: "http_403", HTTPStatus: 403, TwilioCode: 20003}
		return l
	case limitsSetups:
		l.ChannelErr = &flex.LookupError{ErrorKind: "http_429", HTTPStatus: 429, TwilioCode: 20429, Limited: true, RetryAfter: time.Duration(1+s.r.IntN(90)) * time.Second}
		return l
	}
	t := s.interaction(d.InteractionSID)
	switch l.Channel.Status = "active"; {
	case t == nil:
		l.Channel.Status = ""
	case s.now < t.setUpAt, t.fate == stuck:
		l.Channel.Status = "setup"
	case t.fate == channelFailed:
		l.Channel.Status = "failed"
	case t.fate == taskCanceled:
		l.Task.Status = "canceled"
	}
	l.Customer = t != nil && t.fate == setUp && s.now >= t.setUpAt
	return l
}

func (s *sim) interaction(sid string) *simTask {
	for i := range s.flex.tasks {
		if t := &s.flex.tasks[i]; t.sid == sid {
			return t
		}
	}
	return nil
}

// checkWord: I10. A word says what Flex has of the interaction, and is never changed.
func (s *sim) checkWord(d setup.Due, was, word setup.Word) {
	if was != "" && word != was {
		s.fail("I10: request %d was %s and is %q", d.ID, was, word)
	}
	t := s.interaction(d.InteractionSID)
	fails := t != nil && (t.fate == channelFailed || t.fate == noCustomer || t.fate == taskCanceled)
	if word == setup.Confirmed && (t == nil || t.fate != setUp) || word == setup.Failed && !fails {
		s.fail("I10: request %d is %s, which its interaction %q is not", d.ID, word, d.InteractionSID)
	}
}

// checkSetups: I10. With CONFIRM each created request has one word in the end, and one message that says so. No other
// request, and without CONFIRM none, has any.
func (s *sim) checkSetups() {
	for i := range s.rows {
		row, told := &s.rows[i], 0
		for _, r := range s.results {
			if r.kind == results.SetupWord && r.row == row.id {
				told++
			}
		}
		d := s.setup(row.id)
		switch owed := s.confirm && row.state == request.Created; {
		case owed && (d == nil || d.word == "" || !d.published || told != 1):
			s.fail("I10: request %d is created and has %d words on the result stream: %+v", row.id, told, d)
		case !owed && (d != nil || told > 0):
			s.fail("I10: request %d is %s and has %d words on the result stream: %+v", row.id, row.state, told, d)
		}
	}
}

// nextLook is when a look may become possible; never when none will.
func (s *sim) nextLook() instant {
	next := never
	for _, d := range s.setups {
		if d.word == "" && d.dueAt != never {
			at := max(d.dueAt, s.now)
			if s.confirmation.readAt > at && s.confirmation.offSince == never {
				at = s.confirmation.readAt
			}
			if s.passes() == gate.Paused && s.confirmation.offSince == never {
				at = max(at, s.gate.pausedUntil)
			}
			if next == never || at < next {
				next = at
			}
		}
	}
	return next
}
