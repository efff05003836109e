package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	// stillLimit is how long draining may go on without the backlog getting smaller:
	// what is uncertain is looked up as often as TaskRouter may be asked, and a long
	// soak leaves thousands.
	stillLimit = 4 * time.Minute
	drainLimit = 30 * time.Minute
	// verifiedMost is how often TaskRouter is asked before the person says that there is
	// nothing: it takes seconds, and a long soak leaves hundreds.
	verifiedMost = 50
	// calm is how long after the last strike a call that was under way can still
	// create something: a person who looks into the ledger waits for it.
	calm = settle + callLimit
)

// backlog is what is not finished, by state.
type backlog struct {
	pending, sending, uncertain, waiting, unpublished, unasked int
	queued                                                     uint64 // messages not stored yet
}

func (b backlog) empty() bool { return b == backlog{} }

// size is how much is left to do.
func (b backlog) size() int {
	return b.pending + b.sending + b.uncertain + b.waiting + b.unpublished + b.unasked + int(b.queued)
}

func (b backlog) String() string {
	return fmt.Sprintf("queued %d  pending %d  sending %d  uncertain %d  for a person %d  unpublished %d",
		b.queued, b.pending, b.sending, b.uncertain, b.waiting, b.unpublished+b.unasked)
}

// left reads the backlog; an error when Postgres or NATS does not answer.
func (w *world) left(ctx context.Context) (b backlog, err error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	err = w.pool.QueryRow(ctx, `
		SELECT (SELECT count(*) FROM outbox WHERE state = 'pending'), (SELECT count(*) FROM outbox WHERE state = 'sending'),
		       (SELECT count(*) FROM outbox WHERE state = 'uncertain' AND due_at IS NOT NULL),
		       (SELECT count(*) FROM outbox WHERE for_person_since IS NOT NULL),
		       (SELECT count(*) FROM outbox WHERE settled_at IS NOT NULL AND published_at IS NULL),
		       (SELECT count(*) FROM outbox_repeats WHERE published_at IS NULL) + (SELECT count(*) FROM outbox_malformed WHERE published_at IS NULL)`).
		Scan(&b.pending, &b.sending, &b.uncertain, &b.waiting, &b.unpublished, &b.unasked)
	if err != nil {
		return b, err
	}
	c, err := w.stream.Consumer(ctx, "INTERACTION_REQUESTS", "interaction-worker")
	if err == nil {
		b.queued = c.CachedInfo().NumPending + uint64(c.CachedInfo().NumAckPending)
	}
	return b, err
}

// show is the line of progress.
func (w *world) show(ctx context.Context) {
	asked, published, results, ledger := w.book.numbers()
	line := fmt.Sprintf("requests %d  messages %d  results %d  created %d  ", asked, published, results, ledger)
	if b, err := w.left(ctx); err == nil {
		line += b.String()
	} else {
		line += "(not to be counted now)"
	}
	if n := w.book.offended(); n > 0 {
		line += fmt.Sprintf("  OFFENCES %d", n)
	}
	w.board.progress(line)
}

func (b *book) offended() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.offences) + b.more
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
			w.book.offendIf(w.decide(limit), "a person can decide what no lookup can")
			since = time.Now() // hundreds of decisions take minutes, in which nothing was counted
		}
		if !rest(limit, 300*time.Millisecond) {
			return fmt.Errorf("there is left: %v (%w)", b, context.Cause(limit))
		}
	}
}

// decide resolves everything that waits for a person.
func (w *world) decide(ctx context.Context) error {
	rows, err := w.pool.Query(ctx, `SELECT request_id, attempt FROM outbox WHERE for_person_since IS NOT NULL ORDER BY id`)
	if err != nil {
		return err
	}
	type asked struct {
		ID      string
		Attempt int
	}
	all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[asked])
	if err != nil {
		return err
	}
	for _, a := range all {
		args := []string{"resolve", a.ID, "--attempt", strconv.Itoa(a.Attempt), "--why", "the ledger of the endpoint says so", "--by", "soak"}
		switch sid := w.book.inLedger(a.ID); {
		case sid != "":
			args = append(args, "--created", sid)
		case strings.HasSuffix(a.ID, kindNames[attached]) || w.verified >= verifiedMost:
			args = append(args, "--absent", "--unverified")
		default: // TaskRouter has to agree with the ledger
			w.verified++
			args = append(args, "--absent")
		}
		// TaskRouter may be asked three times a second, and the lookups go on: what could
		// not be asked is asked again by the next round.
		_, said, err := w.operator(ctx, args...)
		if err != nil && strings.Contains(said, "is not proved") {
			// Flex had answered with a 2xx, so that nothing found proves nothing. The ledger knows.
			_, said, err = w.operator(ctx, append(args, "--unverified")...)
		}
		// It may have gone on since the list was read: a round of hundreds takes minutes.
		if err != nil && !strings.Contains(said, "is not uncertain") && !strings.Contains(said, "could not be asked") && !strings.Contains(said, "you speak of attempt") {
			return fmt.Errorf("worker %s: %w: %s", strings.Join(args, " "), err, said)
		}
	}
	return nil
}

// inLedger is the sid of a request's interaction; "" when there is none.
func (b *book) inLedger(id string) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	if q := b.find(id); q != nil && len(q.created) > 0 {
		return q.created[0]
	}
	return ""
}
