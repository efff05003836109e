package main

import (
	"bytes"
	"fmt"
	"hash/fnv"
	"strconv"
	"strings"
	"sync"
	"time"

	"flexworker/internal/testing/flextest"
)

// kind is what a request is there to show, and so what may come of it.
type kind uint8

const (
	ordinary  kind = iota
	attached       // without a workspace: nothing to look for
	scheduled      // not_before
	hurried        // expires_at a few seconds later: created or expired
	late           // expires_at has passed
	faulty         // refused before it is sent
	refused        // refused by Flex for good
	kinds
)

var kindNames = [kinds]string{"ordinary", "attached", "scheduled", "hurried", "late", "faulty", "refused"}

// may says whether that outcome is right for the kind.
func (k kind) may(outcome string) bool {
	switch k {
	case hurried:
		return outcome == "created" || outcome == "expired"
	case late:
		return outcome == "expired"
	case faulty, refused:
		return outcome == "rejected"
	default:
		return outcome == "created"
	}
}

// column is where it is counted: [0] with a workspace, [1] without.
func (k kind) column() int {
	if k == attached {
		return 1
	}
	return 0
}

// rec is one request: what was asked, what was created, what was answered. There
// are hundreds of thousands of them, so it is small.
type rec struct {
	kind      kind
	notBefore int64 // unix milliseconds; 0: none
	expires   int64
	asked     []asking      // messages that NATS acknowledged
	answers   []reply       // to all but the one that became the request
	created   []string      // sids in the ledger
	fate      flextest.Fate // of the first of them
	at        int64         // when the first of them was created, unix milliseconds
	finals    int           // messages with the id of the revision
	revision  int32         // of the final result
	source    string        // of that one
	outcome   string
	sid       string
	words     int8   // about its set-up
	word      string // the first of them
	wordAt    int64  // when the stream had it, unix milliseconds
	body      uint64 // hash of the result
	variant   int8   // of the request that was answered; -1: not told
}

// asking is one acknowledged message of a request.
type asking struct {
	sequence uint64
	source   string
	variant  int8
}

// reply is the answer to a message that did not become the request.
type reply struct {
	sequence uint64
	source   string
	conflict bool
}

// offence is something that must not be.
type offence struct{ rule, id, why string }

// book is what the soak knows.
type book struct {
	mu        sync.Mutex
	seed      uint64
	recs      []*rec
	nonsense  map[uint64]bool // acknowledged messages that can become no request: sequence -> answered
	early     map[uint64]bool // answered before the acknowledgement was seen
	ledger    int             // entries read
	published int             // messages acknowledged
	results   int
	final     int               // requests with a final result
	promised  int               // of them created: a word follows
	again     int               // results under an id that had been there
	persons   map[string][2]int // announcements that a person has to look, by reason; [0] with a workspace, [1] without
	late      int               // of the announcements: a person had decided before the stream had them
	words     int               // read about set-ups
	told      map[string]int    // of them, right ones; by word
	unread    int               // unconfirmed, as Flex could not be read
	unseen    int               // confirmed, as there was no task or customer to be missed
	offences  []offence
	more      int // offences beyond the first offencesMost
	said      int // of the offences, while the soak runs
}

const offencesMost = 500

func newBook() *book {
	return &book{nonsense: map[uint64]bool{}, early: map[uint64]bool{}, persons: map[string][2]int{}, told: map[string]int{}}
}

// offend notes what must not be.
func (b *book) offend(rule, id, why string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.note(rule, id, why)
}

func (b *book) offendIf(err error, rule string) {
	if err != nil {
		b.offend(rule, "", err.Error())
	}
}

// note needs b.mu.
func (b *book) note(rule, id, why string) {
	if len(b.offences) == offencesMost {
		b.more++
		return
	}
	b.offences = append(b.offences, offence{rule, id, why})
}

// add opens the record of a new request and returns its id.
func (b *book) add(r *rec) (n int, id string) {
	r.variant = -1
	b.mu.Lock()
	defer b.mu.Unlock()
	b.recs = append(b.recs, r)
	return len(b.recs) - 1, b.id(len(b.recs) - 1)
}

// id needs b.mu.
func (b *book) id(n int) string {
	return fmt.Sprintf("soak-%d-%07d-%s", b.seed, n, kindNames[b.recs[n].kind])
}

// find is the record of an id; it needs b.mu.
func (b *book) find(id string) *rec {
	parts := strings.Split(id, "-")
	if len(parts) != 4 {
		return nil
	}
	n, err := strconv.Atoi(parts[2])
	if err != nil || n < 0 || n >= len(b.recs) || b.id(n) != id {
		return nil
	}
	return b.recs[n]
}

// acknowledged notes that NATS has taken a message; n < 0: nonsense.
func (b *book) acknowledged(n int, a asking) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.published++
	if n >= 0 {
		b.recs[n].asked = append(b.recs[n].asked, a)
		return
	}
	b.nonsense[a.sequence] = b.early[a.sequence]
	delete(b.early, a.sequence)
}

// answered notes a result: its subject, message id and body, and when the stream had it.
func (b *book) answered(subject, messageID string, at time.Time, body []byte, r result) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.results++
	_, rest, _ := strings.Cut(strings.TrimPrefix(subject, "interactions.results."), ".")
	source := rest
	if !strings.HasPrefix(subject, "interactions.results."+r.Outcome+".") {
		b.note("a result's subject says its outcome", r.RequestID, subject+" carries "+r.Outcome)
	}
	if r.Outcome == "malformed" {
		b.answerNonsense(r.Sequence)
		return
	}
	q := b.find(r.RequestID)
	if q == nil {
		b.note("every result is about a request that was sent", r.RequestID, string(body))
		return
	}
	switch number, again := repeated(messageID); {
	case isWord(r.Outcome):
		b.word(q, at, r)
	case r.Outcome == "conflict":
		b.reply(r.RequestID, q, reply{r.Sequence, source, true})
	case r.Outcome == "uncertain":
		n := b.persons[r.reason()]
		n[q.kind.column()]++
		b.persons[r.reason()] = n
		switch { // where a result and an announcement have the same revision, docs/sending.md lets the final one stand
		case q.outcome == "":
		case r.Revision <= q.revision:
			b.late++
		default:
			b.note("after the final result nothing else comes", r.RequestID, "uncertain after "+q.outcome)
		}
	case again:
		if r.Sequence != number {
			b.note("an answer names the message that it is to", r.RequestID, fmt.Sprintf("%s says message %d", messageID, r.Sequence))
		}
		b.settle(r.RequestID, q, r, body)
		b.reply(r.RequestID, q, reply{number, source, false})
	default:
		b.settle(r.RequestID, q, r, body)
		if q.finals++; q.finals > 1 {
			b.again++
			b.note("a request's final result is on the stream once", r.RequestID, fmt.Sprintf("%d times under %s", q.finals, messageID))
		}
		q.source = source
	}
}

func (b *book) answerNonsense(sequence uint64) {
	switch done, known := b.nonsense[sequence]; {
	case done || b.early[sequence]:
		b.again++
		b.note("every message is answered once", fmt.Sprintf("message %d", sequence), "malformed, answered twice")
	case known:
		b.nonsense[sequence] = true
	default:
		b.early[sequence] = true
	}
}

func (b *book) reply(id string, q *rec, a reply) {
	for _, before := range q.answers {
		if before.sequence == a.sequence {
			b.again++
			b.note("every message is answered once", id, fmt.Sprintf("message %d, answered twice", a.sequence))
			return
		}
	}
	q.answers = append(q.answers, a)
}

// settle holds every telling of the final result against the first one; each names
// the message that it is to.
func (b *book) settle(id string, q *rec, r result, body []byte) {
	h := fnv.New64a()
	_, _ = h.Write(bytes.Replace(body, fmt.Appendf(nil, `"sequence":%d`, r.Sequence), nil, 1)) // a hash takes everything
	sum := h.Sum64()
	if q.outcome == "" {
		q.outcome, q.sid, q.body, q.revision = r.Outcome, r.InteractionSID, sum, r.Revision
		b.final++
		if r.Outcome == "created" {
			b.promised++
		}
		if r.Metadata.Variant != nil {
			q.variant = *r.Metadata.Variant
		}
		return
	}
	if q.outcome != r.Outcome || q.sid != r.InteractionSID || q.body != sum {
		b.note(ruleChanged, id, fmt.Sprintf("first %s %s, later %s", q.outcome, q.sid, body))
	}
}

// made notes an entry of the ledger.
func (b *book) made(id, sid string, at time.Time, fate flextest.Fate) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ledger++
	q := b.find(id)
	if q == nil {
		b.note("every interaction belongs to a request that was sent", id, sid)
		return
	}
	if len(q.created) == 0 {
		q.at, q.fate = at.UnixMilli(), fate
	}
	q.created = append(q.created, sid)
}

// numbers for the line of progress.
func (b *book) numbers() (asked, published, results, ledger int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.recs), b.published, b.results, b.ledger
}

// behind says whether the worker has more in hand than the senders of a run by number want.
func (b *book) behind() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.recs)-b.final > unansweredMost || b.promised-b.words > wordlessMost
}
