package main

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// measureLarge burns down beside millions of rows, against an empty table, and
// once more while a transaction elsewhere pins its snapshot.
func (w *world) measureLarge(ctx context.Context) ([]row, error) {
	large, err := w.filled(ctx, w.settled, w.notDue)
	if err != nil {
		return nil, err
	}
	plain := row{name: fmt.Sprintf("burn-down beside %d settled and %d waiting rows", w.settled, w.notDue), least: 0.90, aim: 0.97, more: true}
	pinned := row{name: "the same with a transaction held open", least: 0.75, aim: 0.90, more: true}
	for range w.rounds {
		empty, err := w.burnFresh(ctx)
		if err != nil {
			return nil, err
		}
		full, err := w.burnWorkers(ctx, large, 1, w.requests)
		if err != nil {
			return nil, err
		}
		if err := w.forget(ctx, large); err != nil {
			return nil, err
		}
		held, err := w.burnPinned(ctx, large)
		if err != nil {
			return nil, err
		}
		if err := w.forget(ctx, large); err != nil {
			return nil, err
		}
		plain.add(full.rate()/empty.rate(), fmt.Sprintf("%.0f/%.0f a second", full.rate(), empty.rate()))
		pinned.add(held.rate()/empty.rate(), fmt.Sprintf("%.0f/%.0f a second", held.rate(), empty.rate()))
	}
	return []row{plain, pinned}, nil
}

// forget gives the requests of a run other ids, so that the next run's are new.
func (w *world) forget(ctx context.Context, dsn string) error {
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return err
	}
	defer conn.Close(ctx) //nolint:errcheck // nothing is left to say
	if _, err = conn.Exec(ctx, `UPDATE outbox SET request_id = request_id || '-' || id WHERE request_id LIKE 'bench-_______'`); err != nil {
		return err
	}
	_, err = conn.Exec(ctx, `VACUUM outbox`) // of what this has left, not beside the next run
	return err
}

// burnPinned burns down while another transaction holds a snapshot taken before.
func (w *world) burnPinned(ctx context.Context, dsn string) (burn, error) {
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return burn{}, err
	}
	defer conn.Close(ctx) //nolint:errcheck // nothing is left to say
	tx, err := conn.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead})
	if err != nil {
		return burn{}, err
	}
	defer tx.Rollback(ctx)
	var n int
	if err := tx.QueryRow(ctx, `SELECT count(*) FROM outbox_gate`).Scan(&n); err != nil {
		return burn{}, err
	}
	return w.burnWorkers(ctx, dsn, 1, w.requests)
}
