package operator

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"flexworker/internal/crash"
	"flexworker/internal/database"
)

var (
	// ErrKeyReused is returned for an idempotency key under which something else was asked before.
	ErrKeyReused = errors.New("outbox: the key belongs to another request")
	// ErrUnderWay is returned for a key whose act began within the last minute and has no answer yet.
	ErrUnderWay = errors.New("outbox: the act under this key is under way")
	// ErrInterrupted is returned for a key whose act began longer ago and has no answer: whoever did it died in between,
	// or could not store the answer. Whether it acted, outbox_acts tells. It is never done again under this key.
	ErrInterrupted = errors.New("outbox: the act under this key was interrupted, and may have been done")
)

// underWay is how long an act may take until it counts as interrupted. It is longer than all that an act waits for.
const underWay = time.Minute

// Asked is what is asked under an idempotency key.
type Asked struct {
	// Digest is of all that makes it another act when it differs: method, path, preconditions, body. The caller is not in it.
	// A bearer's name has an address in it, and a program that is started anew, or is behind another address, has to get the
	// answer to what it began, not to do it twice or be refused. Whoever may act may see every answer.
	Digest [sha256.Size]byte
	// RequestID is the request that the act is on, whose Erase blanks the answer; "": the gate, or many.
	RequestID string
}

// Once does an act at most once for each key, on all replicas and whatever dies in between: the key is committed
// before the act begins, and the answer after it. A later call with the same key and the same asked gets the first
// answer, until 24 hours have passed, and act is not called. act returns its answer, and whether something may have
// been changed: if not, the key is free again.
func (desk *Desk) Once(ctx context.Context, key string, asked Asked, act func() (answer []byte, changed bool)) ([]byte, error) {
	if err := desk.MayAct(); err != nil {
		return nil, err
	}
	if answer, err := desk.takeKey(ctx, key, asked); err != nil || answer != nil {
		return answer, err
	}
	answer, changed := act()
	crash.At("acted")
	if changed {
		return answer, desk.finish(ctx, `UPDATE outbox_idempotency_keys SET answer = $2 WHERE key = $1`, key, answer)
	}
	return answer, desk.finish(ctx, `DELETE FROM outbox_idempotency_keys WHERE key = $1 AND answer IS NULL`, key)
}

// takeKey takes a key for an act, or returns the answer of the act that has taken it before.
func (desk *Desk) takeKey(ctx context.Context, key string, asked Asked) (answer []byte, err error) {
	ctx, cancel := database.Bounded(ctx)
	defer cancel()
	// Upkeep removes what no longer counts; it may not have come to this one yet.
	if _, err = desk.pool.Exec(ctx, `DELETE FROM outbox_idempotency_keys WHERE key = $1 AND kept_until < clock_timestamp()`, key); err != nil {
		return nil, database.Wrap("idempotency key", err)
	}
	tag, err := desk.pool.Exec(ctx, `INSERT INTO outbox_idempotency_keys (key, asked, who, request_id) VALUES ($1, $2, $3, nullif($4, '')) ON CONFLICT (key) DO NOTHING`,
		key, asked.Digest[:], desk.caller.Name, asked.RequestID)
	if err != nil || tag.RowsAffected() == 1 {
		return nil, database.Wrap("idempotency key", err)
	}
	var same bool
	var began time.Time
	var age time.Duration
	err = desk.pool.QueryRow(ctx, `SELECT answer, asked = $2, begun_at, clock_timestamp() - begun_at FROM outbox_idempotency_keys WHERE key = $1`, key, asked.Digest[:]).
		Scan(&answer, &same, &began, &age)
	switch {
	case errors.Is(err, pgx.ErrNoRows): // its act has changed nothing, and has given the key back this moment
		return nil, ErrUnderWay
	case err != nil:
		return nil, database.Wrap("idempotency key", err)
	case !same:
		return nil, ErrKeyReused
	case answer != nil:
		return answer, nil
	case age < underWay:
		return nil, ErrUnderWay
	default:
		return nil, fmt.Errorf("%w: it began at %s", ErrInterrupted, began.UTC().Format(time.RFC3339))
	}
}

// finish writes what became of a key. Where that fails the key stays without an answer, and is taken by nobody.
func (desk *Desk) finish(ctx context.Context, sql string, args ...any) error {
	ctx, cancel := database.Bounded(ctx)
	defer cancel()
	_, err := desk.pool.Exec(ctx, sql, args...)
	return database.Wrap("idempotency key", err)
}
