package operator

import (
	"context"
	"slices"

	"github.com/jackc/pgx/v5"
)

// Marks gives of each of these requests a text that is another one after everything that is recorded of it. A request that
// there is not has none. Attempts and lookups are recorded together with the row that they move; acts and set-ups also
// without it. Whoever has seen a request after its mark was read has seen all of it, until the mark changes.
func (desk *Desk) Marks(ctx context.Context, requestIDs []string) (map[string]string, error) {
	marks := map[string]string{}
	err := desk.read(ctx, "marks", func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, `
			SELECT request_id, concat_ws(' ', o.xmin, o.ctid, s.xmin, s.ctid, (SELECT count(*) FROM outbox_acts a WHERE a.request_id = o.request_id))
			  FROM outbox o LEFT JOIN outbox_setups s USING (id) WHERE request_id = ANY ($1)`, slices.DeleteFunc(slices.Clone(requestIDs), unstorable))
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
