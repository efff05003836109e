package results

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"flexworker/internal/batch"
	"flexworker/internal/database"
	"flexworker/internal/loop"
)

// Outgoing is what the outbox owes: results, announcements and answers to messages. Whoever settles a
// request offers its result here, and the Publisher of the same process takes it. What is lost on the way,
// by a crash or a full queue, stands in the tables as unpublished, and any Publisher of the fleet finds it.
// Make one with NewOutgoing. It is safe for concurrent use.
type Outgoing struct {
	pool  *pgxpool.Pool
	turn  *batch.Turn
	wary  database.Wary
	Queue *queue
	// OnSettled is told of each request that this process has settled, by whoever offers its result; nil: nobody is
	// told. Set it before anything is offered. It must not wait.
	OnSettled func(*Settled)
	// FirstLook is how long after a creation it is looked at whether the channel was set up: CONFIRM. 0: never, and no mark
	// writes outbox_setups. Set it before anything is marked.
	FirstLook time.Duration

	Left  loop.Signal // a settled request was left unpublished
	Asked loop.Signal // a repeat or a malformed message waits for its answer
	Words loop.Signal // the word about a set-up waits to be published
}

// NewOutgoing gives what is owed in the tables that pool leads to. Marks take turns with the other writes of turn.
func NewOutgoing(pool *pgxpool.Pool, turn *batch.Turn) *Outgoing {
	return &Outgoing{pool: pool, turn: turn, Queue: newQueue(), Left: loop.NewSignal(), Asked: loop.NewSignal(), Words: loop.NewSignal()}
}

// Offer hands a settled request, or one that waits for a person, to this process's Publisher.
func (s *Outgoing) Offer(r *Settled) {
	if s.OnSettled != nil && r.State.Final() {
		s.OnSettled(r)
	}
	s.Queue.offer(r)
}

// OfferIDs is Offer by the ids of rows, for acts of people and of senders: each row is read again before anybody hears of it.
// Who has asked again for one of them is answered at once too. It does not wait.
func (s *Outgoing) OfferIDs(ids []int64) {
	if len(ids) == 0 {
		return
	}
	s.Queue.offerIDs(ids...)
	s.Asked.Raise()
}

// OfferRead offers the requests with these ids as the table has them. An error is ignored: any Publisher
// finds them later.
func (s *Outgoing) OfferRead(ctx context.Context, requestIDs []string) {
	if len(requestIDs) == 0 {
		return
	}
	rows, err := s.pool.Query(ctx, `SELECT `+SettledColumns+` FROM outbox o WHERE request_id = ANY($1)`, requestIDs)
	if err != nil {
		return
	}
	settled, _ := pgx.CollectRows(rows, ScanSettled)
	for i := range settled {
		s.Offer(&settled[i])
	}
}
