package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// The rules whose offenders are the last lines' counts.
const (
	ruleTwice   = "no request is created twice"
	ruleLost    = "every acknowledged message is answered"
	ruleFinal   = "every request has a final result"
	ruleChanged = "a final result never changes"
	ruleWord    = "every created request has one word about its set-up, the right one"
)

// judge holds the account, prints it and returns an error when it does not balance.
func (w *world) judge(ctx context.Context, took time.Duration) error {
	w.board.say("%s drained; holding the account", w.board.stamp())
	w.audit(ctx)
	w.book.judge()
	for _, v := range w.flex.Violations() {
		w.book.offend("no client does what none may do", "", v)
	}
	if n := w.flex.Calls().Created; n != w.book.ledger {
		w.book.offend("the ledger is read to its end", "", fmt.Sprintf("%d of %d entries", w.book.ledger, n))
	}
	c, err := w.count(ctx)
	w.book.offendIf(err, "the tables can be counted")
	if stored := c.stored[0] + c.stored[1]; err == nil && stored != c.requests[0]+c.requests[1] {
		w.book.offend("every request is one row", "", fmt.Sprintf("%d rows, %d requests", stored, c.requests[0]+c.requests[1]))
	}
	p, err := w.beside.judge(ctx, w.stream)
	w.book.offendIf(err, "the plain consumer's account can be held")
	w.judgeFlat()
	err = w.report(ctx)
	endReplicas(w.replicas, syscall.SIGTERM) // so that a last word of theirs counts
	if err == nil && w.book.offended() > 0 {
		err = w.report(ctx)
	}
	w.print(c, p, took)
	return err
}

// audit asks the worker itself.
func (w *world) audit(ctx context.Context) {
	out, said, err := w.operator(ctx, "audit", "--json")
	var r struct {
		Offenders []struct{ Rule, ID, Why string }
	}
	if jsonErr := json.Unmarshal([]byte(out), &r); jsonErr != nil {
		w.book.offend("worker audit answers", "", fmt.Sprintf("%v: %s%s", err, said, out))
		return
	}
	for _, o := range r.Offenders {
		w.book.offend("audit: "+o.Rule, o.ID, o.Why)
	}
	if (err != nil) != (len(r.Offenders) > 0) {
		w.book.offend("worker audit's exit status says whether it balances", "", fmt.Sprintf("%v: %s", err, said))
	}
}

// judge looks at every request. Which of its messages became the request is not
// for the senders to say: it is the one that was not answered as a repeat or a
// conflict, and the others have to fit it.
func (b *book) judge() {
	b.mu.Lock()
	defer b.mu.Unlock()
	owner := map[string]string{}
	for n, q := range b.recs {
		id := b.id(n)
		if len(q.created) > 1 {
			b.note(ruleTwice, id, strings.Join(q.created, " "))
		}
		for _, sid := range q.created {
			if other, ok := owner[sid]; ok {
				b.note("an interaction belongs to one request", id, sid+" is also of "+other)
			}
			owner[sid] = id
		}
		if len(q.asked) > 0 {
			b.judgeOne(id, q)
		}
	}
	for sequence, done := range b.nonsense {
		if !done {
			b.note(ruleLost, fmt.Sprintf("message %d", sequence), "nonsense, and nobody was told")
		}
	}
}

func (b *book) judgeOne(id string, q *rec) {
	switch {
	case q.outcome == "" || q.finals == 0:
		b.note(ruleFinal, id, fmt.Sprintf("acknowledged as %d messages, %d final results, %d other answers", len(q.asked), q.finals, len(q.answers)))
		return
	case !q.kind.may(q.outcome):
		b.note("the outcome is right", id, q.outcome)
	case q.outcome == "created" && !slices.Contains(q.created, q.sid):
		b.note("a sid in a result is the request's own in the ledger", id, fmt.Sprintf("result %s, ledger %v", q.sid, q.created))
	case q.outcome != "created" && len(q.created) > 0:
		b.note("what is not created does not exist", id, fmt.Sprintf("%s, but there is %v", q.outcome, q.created))
	}
	if len(q.created) > 0 && q.notBefore > q.at {
		b.note("nothing is sent before its time", id, fmt.Sprintf("%d ms early", q.notBefore-q.at))
	}
	// A call that began in time may end a lease later, and a stopped process later still.
	if len(q.created) > 0 && q.expires > 0 && q.at > q.expires+20_000 {
		b.note("nothing is sent after its deadline", id, fmt.Sprintf("%d ms late", q.at-q.expires))
	}
	b.judgeAnswers(id, q)
	b.judgeWord(id, q)
}

// judgeAnswers wants one answer for each message, to its source.
func (b *book) judgeAnswers(id string, q *rec) {
	var own []asking // that became the request
	for _, a := range q.asked {
		i := slices.IndexFunc(q.answers, func(r reply) bool { return r.sequence == a.sequence })
		if i < 0 {
			own = append(own, a)
			continue
		}
		r := q.answers[i]
		if r.source != a.source {
			b.note("an answer goes to who asked", id, fmt.Sprintf("message %d of %s, answered to %s", a.sequence, a.source, r.source))
		}
		if q.variant >= 0 && r.conflict != (a.variant != q.variant) {
			b.note("the same question gets the same answer, another one is a conflict", id, fmt.Sprintf("message %d of variant %d, the request is variant %d, conflict: %t", a.sequence, a.variant, q.variant, r.conflict))
		}
	}
	switch {
	case len(own) > 1:
		b.note(ruleLost, id, fmt.Sprintf("one of these messages became the request, and the others have no answer: %v", own))
	case len(own) == 0 && len(q.answers) >= len(q.asked):
		b.note("every request was asked by a message that was acknowledged", id, "all messages are answered as repeats or conflicts")
	case len(own) == 1 && own[0].source != q.source:
		b.note("an answer goes to who asked", id, fmt.Sprintf("asked by %s, answered to %s", own[0].source, q.source))
	}
}

// report writes every offence to a file, and the first of them, with what the
// worker has to say of them, to the screen.
func (w *world) report(ctx context.Context) error {
	w.book.mu.Lock()
	all, more := slices.Clone(w.book.offences), w.book.more
	w.book.mu.Unlock()
	if len(all) == 0 {
		return nil
	}
	var text strings.Builder
	told := map[string]bool{}
	for i, o := range all {
		line := fmt.Sprintf("OFFENCE %s: %s %s\n", o.rule, o.id, o.why)
		text.WriteString(line)
		if i < 30 {
			w.board.say("%s", strings.TrimRight(line, "\n"))
		}
		if !strings.HasPrefix(o.id, "soak-") || told[o.id] || len(told) == 20 {
			continue
		}
		told[o.id] = true
		out, said, err := w.operator(ctx, "explain", o.id)
		if err != nil {
			out = fmt.Sprintf("%v: %s", err, said)
		}
		explained := "    " + strings.ReplaceAll(strings.TrimRight(out, "\n"), "\n", "\n    ") + "\n"
		text.WriteString(explained)
		w.board.say("%s", strings.TrimRight(explained, "\n"))
	}
	path := filepath.Join(w.folder, "offences.txt")
	err := os.WriteFile(path, []byte(text.String()), 0o600)
	return errors.Join(fmt.Errorf("%d offences; all are in %s", len(all)+more, path), err)
}
