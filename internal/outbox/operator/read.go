package operator

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"flexworker/internal/database"
)

// read answers a question in one read-only transaction, all of whose statements see the tables as its first one does.
// An error names the step.
func (desk *Desk) read(ctx context.Context, step string, ask func(tx pgx.Tx) error) error {
	if err := desk.MayLook(); err != nil {
		return err
	}
	return unread(step, pgx.BeginTxFunc(ctx, desk.reads, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, ask))
}

// unread names the question that failed, and says where it was too slow.
func unread(step string, err error) error {
	if errors.Is(err, ErrCursor) {
		return ErrCursor
	}
	return tooSlow(database.Wrap(step, err))
}

// tooSlow adds ErrTooSlow to an error where Postgres has cut the statement for its time, or where the context has ended in
// the middle of it, or in the line for a connection.
func tooSlow(err error) error {
	var pg *pgconn.PgError
	var away *pgconn.ConnectError
	cut := errors.As(err, &pg) && pg.Code == "57014"
	if cut || errors.Is(err, context.DeadlineExceeded) && !errors.As(err, &away) {
		return fmt.Errorf("%w: %w", ErrTooSlow, err)
	}
	return err
}

// rowsOf runs a statement and collects its rows, column by column into the fields of T.
func rowsOf[T any](ctx context.Context, tx pgx.Tx, sql string, args ...any) ([]T, error) {
	rows, err := tx.Query(ctx, sql, args...)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowToStructByPos[T])
}

// params are the parameters of a statement that is put together.
type params []any

// add appends a parameter and gives its name in SQL.
func (p *params) add(v any) string {
	*p = append(*p, v)
	return "$" + strconv.Itoa(len(*p))
}

// newCursor names a place in a list: the list, and the numbers of the row behind which it goes on. Nobody but readCursor reads it.
func newCursor(list string, numbers ...int64) string {
	text := list
	for _, n := range numbers {
		text += "." + strconv.FormatInt(n, 36)
	}
	return base64.RawURLEncoding.EncodeToString([]byte(text))
}

// readCursor gives the numbers of a cursor of that list; of "" none. It fails with ErrCursor.
func readCursor(list, cursor string, count int) ([]int64, error) {
	if cursor == "" {
		return nil, nil
	}
	text, err := base64.RawURLEncoding.DecodeString(cursor)
	parts := strings.Split(string(text), ".")
	if err != nil || parts[0] != list || len(parts) != 1+count {
		return nil, ErrCursor
	}
	numbers := make([]int64, count)
	for i, part := range parts[1:] {
		if numbers[i], err = strconv.ParseInt(part, 36, 64); err != nil {
			return nil, ErrCursor
		}
	}
	return numbers, nil
}
