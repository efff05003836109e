package operator

import (
	"context"
	"math"

	"github.com/jackc/pgx/v5"
)

// Acts gives what people did, the newest first, page by page. next is the cursor of what follows; "": nothing does. It
// fails with ErrCursor.
func (desk *Desk) Acts(ctx context.Context, cursor string) (acts []Done, next string, err error) {
	return newest(ctx, desk, "acts", cursor, func(d Done) int64 { return d.ID }, actsSQL)
}

const actsSQL = `SELECT ` + doneColumns + ` FROM outbox_acts WHERE id < $1 ORDER BY id DESC LIMIT $2`

// newest reads a page of a table in the order of its ids, the newest first. sql gets the id that the page begins below, and
// for how many rows it asks: ListMost, and one that shows that there are more.
func newest[T any](ctx context.Context, desk *Desk, list, cursor string, id func(T) int64, sql string) (page []T, next string, err error) {
	err = desk.read(ctx, list, func(tx pgx.Tx) error {
		before := int64(math.MaxInt64)
		numbers, err := readCursor(list, cursor, 1)
		if err != nil {
			return err
		}
		if numbers != nil {
			before = numbers[0]
		}
		if page, err = rowsOf[T](ctx, tx, sql, before, ListMost+1); err != nil {
			return err
		}
		if len(page) > ListMost {
			page = page[:ListMost]
			next = newCursor(list, id(page[ListMost-1]))
		}
		return nil
	})
	return page, next, err
}
