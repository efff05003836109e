package main

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	// verifiedMost is how often TaskRouter is asked before the person says that there is
	// nothing: it takes seconds, and a long soak leaves hundreds.
	verifiedMost = 50
	// certain is how long after the announcement the ledger says for sure whether an attempt created something: no
	// process is stopped, and no way is a black hole, for longer than 12 s.
	certain = time.Minute
)

// undone is what a decision may come to that the next round, or somebody else, carries out: it had gone on since the list
// was read, as a round of hundreds takes minutes, or a busy machine did not answer in time.
var undone = []string{"is not uncertain", "could not be asked", "you speak of attempt", "timeout awaiting response headers", "is not shown by Flex: no answer within"}

// decideMeanwhile lets the person work while the nemesis does, or a million requests leave thousands for the end. What
// cannot be done now, as a server is away, is done by the next round.
func (w *world) decideMeanwhile(striking context.Context) (finish func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		for rest(striking, 15*time.Second) {
			w.readLedger()
			_ = w.decide(striking, certain) // what went wrong is tried again, and by drain for good
		}
	}()
	return func() { <-done }
}

// decide resolves everything that has waited so long for a person.
func (w *world) decide(ctx context.Context, waited time.Duration) error {
	rows, err := w.pool.Query(ctx, `SELECT request_id, attempt FROM outbox WHERE state = 'uncertain' AND for_person_since < now() - $1::interval ORDER BY id`, waited)
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
		if err != nil && !slices.ContainsFunc(undone, func(why string) bool { return strings.Contains(said, why) }) {
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
