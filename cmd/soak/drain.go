package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"time"
)

const (
	// stillLimit is how long draining may go on without the backlog getting smaller:
	// what is uncertain is looked up as often as TaskRouter may be asked, and a long
	// soak leaves thousands.
	stillLimit = 4 * time.Minute
	drainLimit = 30 * time.Minute
	// calm is how long after the last strike a call that was under way can still
	// create something: a person who looks into the ledger waits for it.
	calm = settle + callLimit
)

// backlog is what is not finished, by state.
type backlog struct {
	pending, sending, uncertain, waiting, unpublished, unasked int
	unconfirmed                                                int    // set-ups without a published word
	queued                                                     uint64 // messages not stored yet
}

func (b backlog) empty() bool { return b == backlog{} }

// size is how much is left to do.
func (b backlog) size() int {
	return b.pending + b.sending + b.uncertain + b.waiting + b.unpublished + b.unasked + b.unconfirmed + int(b.queued)
}

func (b backlog) String() string {
	return fmt.Sprintf("queued %d  pending %d  sending %d  uncertain %d  for a person %d  unpublished %d  set-ups %d",
		b.queued, b.pending, b.sending, b.uncertain, b.waiting, b.unpublished+b.unasked, b.unconfirmed)
}

// left reads the backlog; an error when Postgres or NATS does not answer.
func (w *world) left(ctx context.Context) (b backlog, err error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	err = w.pool.QueryRow(ctx, `
		SELECT (SELECT count(*) FROM outbox WHERE state = 'pending' AND id > 0), (SELECT count(*) FROM outbox WHERE state = 'sending'),
		       (SELECT count(*) FROM outbox WHERE state = 'uncertain' AND due_at IS NOT NULL),
		       (SELECT count(*) FROM outbox WHERE state = 'uncertain' AND for_person_since IS NOT NULL),
		       (SELECT count(*) FROM outbox WHERE settled_at IS NOT NULL AND published_at IS NULL),
		       (SELECT count(*) FROM outbox_repeats WHERE published_at IS NULL) + (SELECT count(*) FROM outbox_malformed WHERE published_at IS NULL),
		       (SELECT count(*) FROM outbox_setups WHERE word IS NULL) + (SELECT count(*) FROM outbox_setups WHERE word IS NOT NULL AND published_at IS NULL)`).
		Scan(&b.pending, &b.sending, &b.uncertain, &b.waiting, &b.unpublished, &b.unasked, &b.unconfirmed)
	if err != nil {
		return b, err
	}
	c, err := w.stream.Consumer(ctx, "INTERACTION_REQUESTS", "interaction-worker")
	if err == nil {
		b.queued = c.CachedInfo().NumPending + uint64(c.CachedInfo().NumAckPending)
	}
	return b, err
}

// ahead is how far a run by -requests has come, and when all will be sent at the rate so far.
func (w *world) ahead(asked int) string {
	if w.requests == 0 || asked == 0 {
		return ""
	}
	took := time.Since(w.board.begun)
	left := time.Duration(float64(took) * float64(max(w.requests-asked, 0)) / float64(asked))
	return fmt.Sprintf("%.1f %%, %.0f/s, %v to go  ", share(asked, w.requests), float64(asked)/took.Seconds(), left.Round(time.Second))
}

// show is the line of progress.
func (w *world) show(ctx context.Context) {
	asked, published, results, ledger := w.book.numbers()
	line := fmt.Sprintf("%srequests %d  messages %d  results %d  created %d  ", w.ahead(asked), asked, published, results, ledger)
	if b, err := w.left(ctx); err == nil {
		line += b.String()
	} else {
		line += "(not to be counted now)"
	}
	if n := w.book.offended(); n > 0 {
		line += fmt.Sprintf("  OFFENCES %d", n)
	}
	for _, o := range w.book.untold() {
		w.board.say("%s  OFFENCE %s: %s %s", w.board.stamp(), o.rule, o.id, o.why)
	}
	w.board.progress(line)
}

func (b *book) offended() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.offences) + b.more
}

// untold are the first offences that nobody was told of yet: a long run is not waited for to its end.
func (b *book) untold() []offence {
	b.mu.Lock()
	defer b.mu.Unlock()
	some := b.offences[b.said:min(len(b.offences), 30)]
	b.said += len(some)
	return some
}

var errStill = errors.New("nothing moves")

// drain waits until nothing is left. What waits for a person is decided by one
// who knows the ledger.
func (w *world) drain(ctx context.Context) error {
	limit, cancel := context.WithTimeout(ctx, drainLimit)
	defer cancel()
	rest(limit, calm)
	least, since := math.MaxInt, time.Now()
	for {
		b, err := w.left(limit)
		if err == nil && b.empty() {
			return nil
		}
		if err == nil && b.size() < least {
			least, since = b.size(), time.Now()
		}
		if time.Since(since) > stillLimit {
			return fmt.Errorf("there is left: %v (not less for %v; %w)", b, time.Since(since).Round(time.Second), cmp.Or(err, errStill))
		}
		if err == nil && b.waiting > 0 {
			w.readLedger()
			w.book.offendIf(w.decide(limit, 0), "a person can decide what no lookup can")
			since = time.Now() // hundreds of decisions take minutes, in which nothing was counted
		}
		if !rest(limit, 300*time.Millisecond) {
			return fmt.Errorf("there is left: %v (%w)", b, context.Cause(limit))
		}
	}
}
