package main

import (
	"errors"
	"log/slog"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"flexworker/internal/trouble"
)

const (
	// resubscribeAfter is how long after a refused subscription the worker connects anew, and so subscribes again.
	resubscribeAfter = 10 * time.Second
	// refusedFor is how long a refusal counts after NATS has said it last. What is still refused is refused again sooner: a pull and
	// a look at the consumer are tried again within five seconds, a result within ten, and a subscription after resubscribeAfter.
	refusedFor = 15 * time.Second
	// ackRefusedFor is the same of an ack, which is tried again when its message comes again. A confirmed ack ends it sooner.
	ackRefusedFor = 10 * time.Minute
)

// refusals are what NATS has refused of late without which requests do not move. NATS may take a permission away from a worker that
// is connected, and give it back, and keeps the connection both times. It names each refusal, and never says that one is over. Of
// a subscription it does not even say that it is refused still: it has removed it, and only the next connection makes it anew.
type refusals struct {
	any, acks     atomic.Int64 // when NATS last said so, in Unix nanoseconds; 0: never
	resubscribing atomic.Bool  // a new connection is due

	ackLines, other trouble.Sample // of the log
}

// note takes in what the library has met on the connection, and says it in the log; a few times a minute what comes with each
// message, or with each try to connect. service is SERVICE_SUBJECT.
func (r *refusals) note(c *nats.Conn, err error, service string, log *slog.Logger) {
	if !errors.Is(err, nats.ErrPermissionViolation) {
		if say, leftOut := r.other.Next(); say {
			log.Warn("NATS", "error", err, "left_out", leftOut)
		}
		return
	}
	if !dispensable(err, service) {
		r.refused(c, err.Error(), log)
	}
	say, leftOut := true, 0
	if isAck(err.Error()) {
		say, leftOut = r.ackLines.Next()
	}
	if say {
		log.Error("NATS refuses a subject: give this user the permissions that docs/operating.md lists", "error", err, "left_out", leftOut)
	}
}

// isAck says whether a refusal is of an ack.
func isAck(said string) bool { return strings.Contains(said, `"$JS.ACK.`) }

// refused notes a refusal of a subject without which requests do not move.
func (r *refusals) refused(c *nats.Conn, said string, log *slog.Logger) {
	now := time.Now().UnixNano()
	if isAck(said) {
		r.acks.Store(now)
		return
	}
	r.any.Store(now)
	if strings.Contains(said, "Subscription to") && r.resubscribing.CompareAndSwap(false, true) {
		time.AfterFunc(resubscribeAfter, func() {
			r.resubscribing.Store(false)
			if !c.IsClosed() {
				log.Info("connecting to NATS anew, to subscribe again to what was refused")
				_ = c.ForceReconnect() // it fails on a connection that was closed just now
			}
		})
	}
}

// standing says whether NATS refuses something at present, as far as is known. acked is when it has last confirmed an ack.
func (r *refusals) standing(now, acked time.Time) bool {
	acks := time.Unix(0, r.acks.Load())
	return now.Sub(time.Unix(0, r.any.Load())) < refusedFor || acks.After(acked) && now.Sub(acks) < ackRefusedFor
}
