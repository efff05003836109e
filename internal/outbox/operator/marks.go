package operator

import (
	"context"

	"github.com/jackc/pgx/v5"
)

// Marks gives of each of these requests a text that is another one after every change of its row. A request that there
// is not has none. Attempts, lookups and acts are recorded together with the row that they move: whoever has seen a
// request after its mark was read has seen all of it, until the mark changes.
func (desk *Desk) Marks(ctx context.Context, requestIDs []string) (map[string]string, error) {
	marks := map[string]string{}
	err := desk.read(ctx, "marks", func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, `SELECT request_id, xmin::text || ctid::text FROM outbox WHERE request_id = ANY ($1)`, requestIDs)
		if err != nil {
			return err
		}
		var id, mark string
		_, err = pgx.ForEachRow(rows, []any{&id, &mark}, func() error {
			marks[id] = mark
			return nil
		})
		return err
	})
	return marks, err
}

// Newest are the highest ids of what is only ever added to; 0: there is none.
type Newest struct{ Request, Act, Malformed int64 }

// Newest says whether something came since somebody looked.
func (desk *Desk) Newest(ctx context.Context) (n Newest, err error) {
	err = desk.read(ctx, "newest", func(tx pgx.Tx) error {
		return tx.QueryRow(ctx, `
			SELECT coalesce((SELECT max(id) FROM outbox), 0), coalesce((SELECT max(id) FROM outbox_acts), 0),
			       coalesce((SELECT max(id) FROM outbox_malformed), 0)`).Scan(&n.Request, &n.Act, &n.Malformed)
	})
	return n, err
}
