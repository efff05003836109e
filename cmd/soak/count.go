package main

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"strings"
	"time"
)

// counts are the last lines; [0] with a workspace, [1] without.
type counts struct {
	requests, creates, uncertain, found, absent, held, stored [2]int
}

// count reads what only the tables know: the attempts and the lookups.
func (w *world) count(ctx context.Context) (counts, error) {
	var c counts
	w.book.mu.Lock()
	for _, q := range w.book.recs {
		i := q.kind.column()
		if len(q.asked) > 0 {
			c.requests[i]++
		}
		c.creates[i] += len(q.created)
	}
	for _, n := range w.book.persons {
		for i := range n {
			c.held[i] += n[i]
		}
	}
	w.book.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	for i := range 2 {
		err := w.pool.QueryRow(ctx, `
			SELECT count(DISTINCT o.id), count(*) FILTER (WHERE a.kind = 'attempt' AND a.outcome IN ('uncertain', 'lapsed') AND a.applied),
			       count(*) FILTER (WHERE a.kind = 'lookup' AND a.outcome = 'found' AND a.applied),
			       count(*) FILTER (WHERE a.kind = 'lookup' AND a.outcome = 'absent' AND a.applied)
			  FROM outbox o LEFT JOIN outbox_attempts a ON a.outbox_id = o.id
			 WHERE (o.request_id LIKE '%-attached') = $1`, i == 1).Scan(&c.stored[i], &c.uncertain[i], &c.found[i], &c.absent[i])
		if err != nil {
			return c, err
		}
	}
	return c, nil
}

// print is the account in numbers: the last lines.
func (w *world) print(c counts, p plainCounts, took time.Duration) {
	rule := func(name string) (n int) {
		for _, o := range w.book.offences {
			if o.rule == name {
				n++
			}
		}
		return n
	}
	var deaths int
	var memory int64
	for _, r := range w.replicas {
		deaths += r.deaths
		memory = max(memory, r.largest)
	}
	asked, published, results, _ := w.book.numbers()
	w.board.say("\n%-28s %9d messages acknowledged, %d results read, %d processes of the worker ended, at most %d MiB each", "in "+took.Round(time.Second).String(), published, results, deaths, memory>>10)
	w.board.say("%-28s %9s %19s", "", "", "without a workspace")
	row := func(name string, n [2]int) { w.board.say("%-28s %9d %19d", name, n[0], n[1]) }
	row("requests", c.requests)
	row("creates", c.creates)
	row("uncertain attempts", c.uncertain)
	row("found", c.found)
	row("proved absent", c.absent)
	row("came to a person", c.held)
	w.board.say("%-28s %9d", "duplicates", rule(ruleTwice))
	w.board.say("%-28s %9d", "lost", rule(ruleLost))
	w.board.say("%-28s %9d", "without a final result", rule(ruleFinal))
	w.board.say("%-28s %9d", "results that changed", rule(ruleChanged))
	w.board.say("%-28s %9d", "wrong words about set-ups", rule(ruleWord))
	w.board.say("%-28s %9d", "offences in all", w.book.offended())
	w.printPlain(p)
	w.printWords()
	w.printPersons(c)
	if asked != c.requests[0]+c.requests[1] {
		w.board.say("%d requests were never acknowledged and count for nothing", asked-c.requests[0]-c.requests[1])
	}
}

// printPlain is the account of the plain consumer beside that of the worker over the same requests.
func (w *world) printPlain(p plainCounts) {
	ours := w.book.ordinary(w.beside.asked)
	w.board.say("\n%-52s %9s %9s", "of the same ordinary requests, one in ten of all", "worker", "plain")
	row := func(name string, ours, plain int) { w.board.say("%-52s %9d %9d", name, ours, plain) }
	row("requests", ours.requests, p.requests)
	row("interactions", ours.creates, p.creates)
	row("created twice or more often", ours.twice, p.twice)
	row("never created", ours.never, p.never)
	row("without an answer", ours.unanswered, p.unanswered)
	row("answered, and the ledger says otherwise", ours.wrong, p.wrong)
	if w.beside.left > 0 {
		w.board.say("the plain consumer had %d messages left when its time was over", w.beside.left)
	}
}

// ordinary is the worker's account over some requests, as that of the plain consumer.
func (b *book) ordinary(ids map[string]bool) (c plainCounts) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for id := range ids {
		q := b.find(id)
		c.requests++
		c.creates += len(q.created)
		if len(q.created) == 0 {
			c.never++
		}
		if len(q.created) > 1 {
			c.twice++
		}
		if q.outcome == "" {
			c.unanswered++
		} else if (q.outcome == "created") != (len(q.created) > 0) {
			c.wrong++
		}
	}
	return c
}

// printPersons says why attempts came to a person, the most frequent reason first.
func (w *world) printPersons(c counts) {
	held, uncertain := c.held[0]+c.held[1], c.uncertain[0]+c.uncertain[1]
	if held == 0 {
		return
	}
	w.board.say("\nof %d uncertain attempts %d came to a person (%.1f %%; %d of %d of those with a workspace, %.1f %%):", uncertain, held, share(held, uncertain),
		c.held[0], c.uncertain[0], share(c.held[0], c.uncertain[0]))
	reasons := slices.SortedFunc(maps.Keys(w.book.persons), func(a, b string) int {
		x, y := w.book.persons[a], w.book.persons[b]
		return cmp.Or(cmp.Compare(y[0]+y[1], x[0]+x[1]), strings.Compare(a, b))
	})
	for _, reason := range reasons {
		n := w.book.persons[reason]
		w.board.say("%9d %9d  %s", n[0], n[1], reason)
	}
	if w.book.late > 0 {
		w.board.say("%d were announced after the final result of the same revision, which stands", w.book.late)
	}
	w.board.say("")
}

// share is part of all, in per cent.
func share(part, all int) float64 { return 100 * float64(part) / float64(max(all, 1)) }
