package attempt

import (
	"context"

	"github.com/jackc/pgx/v5"

	"flexworker/internal/database"
	"flexworker/internal/flex"
)

// An othersError is returned for an answer that names an interaction which is another request's. Nothing of
// it was stored: what becomes of such an attempt is the policy's to decide.
type othersError struct{ owner string }

func (e *othersError) Error() string {
	return "outbox: the interaction is that of request " + e.owner
}

// findOwners finds the interactions that are another request's. A cache on the way gives one request the answer to
// another, and then only the tables, and the other records of the batch, can tell whose the interaction is.
//
// Two replicas may be told one interaction at the same moment. The first to lock its sid has it, and the other waits for
// the first one's commit or, where it does not wait patiently, is locked. The question is a statement of its own, so
// that it sees what was committed meanwhile. An answer that carries its request's own key asks and locks nothing: it is
// a proof, whatever another request was told.
func findOwners(ctx context.Context, tx pgx.Tx, records []Record, done []recorded, patiently bool) error {
	owners, held := map[string]string{}, map[string]bool{} // request ids by sids; sids
	var ids []int64
	var sids []string
	for i := range records {
		switch r := &records[i]; {
		case done[i].err != nil || r.Told.Kind != flex.Created:
		case r.Unproved():
			ids, sids = append(ids, r.Lease.ID), append(sids, r.Told.InteractionSID)
		default:
			owners[r.Told.InteractionSID] = r.Lease.RequestID
		}
	}
	if len(ids) == 0 {
		return nil
	}
	var b pgx.Batch
	var sid, owner string
	if patiently {
		b.Queue(`SELECT ` + database.Patiently)
		b.Queue(database.LockSIDs, sids)
	} else {
		b.Queue(database.TryLockSIDs, sids).Query(func(rows pgx.Rows) error {
			_, err := pgx.ForEachRow(rows, []any{&sid}, func() error { held[sid] = true; return nil })
			return err
		})
	}
	b.Queue(`/* owners */
		SELECT o.interaction_sid, o.request_id
		  FROM unnest($1::bigint[], $2::text[]) AS told (id, sid) JOIN outbox o ON o.interaction_sid = told.sid AND o.id <> told.id
		 ORDER BY o.id DESC`, ids, sids).Query(func(rows pgx.Rows) error { // the first request is named where several have it
		_, err := pgx.ForEachRow(rows, []any{&sid, &owner}, func() error { owners[sid] = owner; return nil })
		return err
	})
	if err := tx.SendBatch(ctx, &b).Close(); err != nil {
		return err
	}
	for i := range records {
		r := &records[i]
		if done[i].err != nil || !r.Unproved() {
			continue
		}
		switch owner, taken := owners[r.Told.InteractionSID]; {
		case held[r.Told.InteractionSID]:
			done[i].err = database.ErrLocked
		case !taken:
			owners[r.Told.InteractionSID] = r.Lease.RequestID
		case owner != r.Lease.RequestID:
			done[i].err = &othersError{owner}
		}
	}
	return nil
}
