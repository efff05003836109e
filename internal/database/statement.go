package database

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Bounded is the context of one write: no caller cuts it, since a statement
// that was cut may have committed; WriteLimit does.
func Bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(context.WithoutCancel(ctx), WriteLimit, errWriteLimit)
}

var errWriteLimit = fmt.Errorf("outbox: a statement took longer than %v", WriteLimit)

// Acquire gives a connection of the pool for a statement whose caller has to know whether it may be committed. Where
// there was none in time, the error is NotSent. The pool's own error is then the bare one of the context, which a
// statement that is under way ends with, too.
func Acquire(ctx context.Context, pool *pgxpool.Pool) (*pgxpool.Conn, error) {
	conn, err := pool.Acquire(ctx)
	if err != nil {
		return nil, NotSent(err)
	}
	return conn, nil
}

// NotSent is err, of a write of which nothing was sent: NotCommitted is true of it.
func NotSent(err error) error { return notSent{err} }

type notSent struct{ error }

func (n notSent) Unwrap() error { return n.error }

// IsDataError says whether Postgres refused what was written, rather than the
// writing: class 22 (data), 23 (a constraint), 54 (too large, too deep).
func IsDataError(err error) bool {
	var pg *pgconn.PgError
	if !errors.As(err, &pg) || len(pg.Code) < 2 {
		return false
	}
	switch pg.Code[:2] {
	case "22", "23", "54":
		return true
	default:
		return false
	}
}

// NotCommitted says whether a statement that failed is surely not committed: it never
// left, or Postgres has answered it with an error, which rolls back. An error that ends
// the session is no such answer: it may come while the commit waits for a standby. Nor
// is one of class 08, of a pooler that has lost the server. That the connection is closed
// says nothing, whatever SafeToRetry says of it: pgx says so, too, where it ended while a COMMIT was under way.
func NotCommitted(err error) bool {
	var unsent notSent
	var never *pgconn.ConnectError
	var said *pgconn.PgError
	return errors.As(err, &unsent) || errors.As(err, &never) || pgconn.SafeToRetry(err) && !errors.Is(err, pgconn.ErrConnClosed) ||
		errors.As(err, &said) && !Fatal(said) && !strings.HasPrefix(said.Code, "08")
}

// Wrap names the step that failed.
func Wrap(step string, err error) error {
	if err == nil {
		return nil
	}
	var pg *pgconn.PgError
	if errors.As(err, &pg) && pg.Code == "42P01" {
		return fmt.Errorf("outbox: %s: the database does not have our tables, or search_path leads elsewhere; `worker migrate up` makes them: %w", step, err)
	}
	if errors.As(err, &pg) && pg.Code == "42501" {
		return fmt.Errorf("outbox: %s: this role lacks a right; docs/operating.md lists under Permissions what to grant: %w", step, err)
	}
	if errors.As(err, &pg) && pg.Code == "55P03" {
		return fmt.Errorf("outbox: %s: another transaction holds what this needs locked, and nothing was changed; pg_stat_activity shows whose it is: %w", step, err)
	}
	if errors.As(err, &pg) && pg.ConstraintName != "" {
		return fmt.Errorf("outbox: %s: constraint %s: %w", step, pg.ConstraintName, err)
	}
	return fmt.Errorf("outbox: %s: %w", step, err)
}

// WriteLimit bounds one statement of the worker on its own side. The
// server's statement_timeout has to be shorter, because a context that ends
// in mid-query costs the connection.
const WriteLimit = 10 * time.Second
