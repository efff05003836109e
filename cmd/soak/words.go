package main

import (
	"fmt"
	"strings"
	"time"

	"flexworker/internal/testing/flextest"
)

// word notes a message about a set-up, and when the stream had it. It needs b.mu.
func (b *book) word(q *rec, at time.Time, r result) {
	b.words++
	if q.words++; q.words > 1 {
		b.note(ruleWord, r.RequestID, fmt.Sprintf("%d words: %s, then %s", q.words, q.word, r.Outcome))
		return
	}
	q.word, q.wordAt = r.Outcome, at.UnixMilli()
	switch {
	case q.outcome != "created":
		b.note(ruleWord, r.RequestID, r.Outcome+" before a result created: "+q.outcome)
	case q.sid != r.InteractionSID:
		b.note(ruleWord, r.RequestID, fmt.Sprintf("%s of %s, the result says %s", r.Outcome, r.InteractionSID, q.sid))
	}
}

// taskKept is how long TaskRouter keeps a task that was cancelled. A look that comes later does not see that.
const taskKept = 5 * time.Minute

func isWord(outcome string) bool {
	return outcome == "confirmed" || outcome == "setup_failed" || outcome == "unconfirmed"
}

// judgeWord wants one word for each created request, the one of its fate. Where Flex could not be read at the last look
// the word is unconfirmed; how often that was, the last lines say. It needs b.mu.
func (b *book) judgeWord(id string, q *rec) {
	if q.outcome != "created" {
		if q.words > 0 {
			b.note(ruleWord, id, q.outcome+", and there is a word: "+q.word)
		}
		return
	}
	if q.words != 1 || len(q.created) == 0 {
		b.note(ruleWord, id, fmt.Sprintf("%d words", q.words))
		return
	}
	switch want := wordOf(q.fate); {
	case q.word == want:
		b.told[q.word]++
	case q.word == "unconfirmed":
		b.unread++
	case q.word == "confirmed" && q.kind == attached && q.fate != flextest.ChannelFailed && q.fate != flextest.Stuck:
		b.unseen++ // the request names nobody who could be missing, and has no task
	case q.word == "confirmed" && q.fate == flextest.TaskCanceled && (b.seed%2 == 0 || q.wordAt-q.at >= taskKept.Milliseconds()):
		b.unseen++ // TaskRouter has forgotten the task: with such a seed the imitated one does at once
	default:
		b.note(ruleWord, id, fmt.Sprintf("its set-up is %q, and the word is %s", q.fate, q.word))
	}
}

// wordOf is the word that a fate must lead to.
func wordOf(fate flextest.Fate) string {
	switch fate {
	case flextest.ChannelFailed, flextest.NoCustomer, flextest.TaskCanceled:
		return "setup_failed"
	case flextest.Stuck:
		return "unconfirmed"
	default:
		return "confirmed"
	}
}

// printWords says what was told about set-ups.
func (w *world) printWords() {
	b := w.book
	parts := make([]string, 0, 3)
	for _, word := range []string{"confirmed", "setup_failed", "unconfirmed"} {
		parts = append(parts, fmt.Sprintf("%s %d", word, b.told[word]))
	}
	w.board.say("words about set-ups: %s, each as the ledger has its fate; %d more are unconfirmed as Flex could not be read at the last look; %d are confirmed where there was no task or customer to be missed",
		strings.Join(parts, ", "), b.unread, b.unseen)
}
