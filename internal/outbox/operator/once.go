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

const (
	// keysKept is how long a key is remembered.
	keysKept = `interval '24 hours'`
	// underWay is how long an act may take until it counts as interrupted. It is longer than all that an act waits for.
	underWay = time.Minute
)

// Once does an act at most once for each key, on all replicas and whatever dies in between: the key is committed
// before the act begins, and the answer after it. A later call with the same key and the same asked gets the first
// answer, until 24 hours have passed, and act is not called. act returns its answer, and whether something may have
// been changed: if not, the key is free again.
func (desk *Desk) Once(ctx context.Context, key string, asked [sha256.Size]byte, act func() (answer []byte, changed bool)) ([]byte, error) {
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
func (desk *Desk) takeKey(ctx context.Context, key string, asked [sha256.Size]byte) (answer []byte, err error) {
	ctx, cancel := database.Bounded(ctx)
	defer cancel()
	if _, err = desk.pool.Exec(ctx, `DELETE FROM outbox_idempotency_keys WHERE begun_at < clock_timestamp() - `+keysKept); err != nil {
		return nil, database.Wrap("idempotency key", err)
	}
	tag, err := desk.pool.Exec(ctx, `INSERT INTO outbox_idempotency_keys (key, asked, who) VALUES ($1, $2, $3) ON CONFLICT (key) DO NOTHING`,
		key, asked[:], desk.caller.Name)
	if err != nil || tag.RowsAffected() == 1 {
		return nil, database.Wrap("idempotency key", err)
	}
	var same bool
	var began time.Time
	var age time.Duration
	err = desk.pool.QueryRow(ctx, `SELECT answer, asked = $2, begun_at, clock_timestamp() - begun_at FROM outbox_idempotency_keys WHERE key = $1`, key, asked[:]).
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
