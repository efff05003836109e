package main

import (
	"context"
	"errors"
	"os"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go/jetstream"

	"flexworker/internal/batch"
	"flexworker/internal/database"
)

// writesTable is the least that could be called an outbox.
const writesTable = `
	CREATE TABLE requests (
		id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
		request_id   text NOT NULL UNIQUE,
		request      json NOT NULL,
		state        text NOT NULL,
		sid          text,
		response     json,
		settled_at   timestamptz,
		published_at timestamptz)`

// writes is the loop with three durable writes a request, each for all that wait:
// the request before its ack, the answer before the result, a mark behind that. So it
// shows what durability costs by itself on this machine. It has no other duty: it
// checks nothing, tries nothing again, finds nothing out, and calls people twice.
func writes(ctx context.Context) error {
	config, err := pgxpool.ParseConfig(os.Getenv("DATABASE_URL"))
	if err != nil {
		return err
	}
	database.ForLoops(config) // it may have what the worker has
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return err
	}
	defer pool.Close()
	if _, err := pool.Exec(ctx, writesTable); err != nil {
		return err
	}
	c, err := newCaller()
	if err != nil {
		return err
	}
	defer c.conn.Close()
	w := &writer{caller: c, pool: pool, calls: make(chan struct{}, c.most)}
	w.inserts, w.records, w.marks = batch.New(256, w.insert), batch.New(256, w.record), batch.New(256, w.mark)
	w.records.Turn = batch.NewTurn(20 * time.Millisecond)
	w.marks.Turn = w.records.Turn
	return c.consume(ctx, 16*c.most, w.carry)
}

type writer struct {
	caller
	pool    *pgxpool.Pool
	calls   chan struct{} // one for each call in flight
	inserts *batch.Group[incoming, int64]
	records *batch.Group[answered, struct{}]
	marks   *batch.Group[int64, struct{}]
}

// answered is a request, by its row, and what Flex said to it.
type answered struct {
	row    int64
	sid    string
	answer []byte
}

func (w *writer) insert(ctx context.Context, batch []incoming) ([]int64, error) {
	ids, texts, at := make([]string, len(batch)), make([]string, len(batch)), make(map[string]int, len(batch))
	for i, in := range batch {
		ids[i], texts[i], at[in.RequestID] = in.RequestID, string(in.text), i
	}
	rows, err := w.pool.Query(ctx, `
		INSERT INTO requests (request_id, request, state)
		SELECT request_id, request::json, 'sending' FROM (SELECT unnest($1::text[]) AS request_id, unnest($2::text[]) AS request) AS r
		    ON CONFLICT (request_id) DO NOTHING RETURNING id, request_id`, ids, texts)
	if err != nil {
		return nil, err
	}
	numbers := make([]int64, len(batch)) // 0: known already
	var row int64
	var id string
	_, err = pgx.ForEachRow(rows, []any{&row, &id}, func() error { numbers[at[id]] = row; return nil })
	return numbers, err
}

func (w *writer) record(ctx context.Context, batch []answered) ([]struct{}, error) {
	numbers, sids, answers := make([]int64, len(batch)), make([]string, len(batch)), make([]string, len(batch))
	for i, a := range batch {
		numbers[i], sids[i], answers[i] = a.row, a.sid, string(a.answer)
	}
	_, err := w.pool.Exec(ctx, `
		UPDATE requests SET state = 'created', sid = a.sid, response = a.response::json, settled_at = now()
		  FROM (SELECT unnest($1::bigint[]) AS id, unnest($2::text[]) AS sid, unnest($3::text[]) AS response) AS a
		 WHERE requests.id = a.id`, numbers, sids, answers)
	return make([]struct{}, len(batch)), err
}

func (w *writer) mark(ctx context.Context, rows []int64) ([]struct{}, error) {
	_, err := w.pool.Exec(ctx, `UPDATE requests SET published_at = now() WHERE id = ANY($1)`, rows)
	return make([]struct{}, len(rows)), err
}

// carry is the loop's with the writes in it.
func (w *writer) carry(ctx context.Context, m jetstream.Msg) error {
	in, err := read(m)
	if err != nil {
		return err
	}
	row, err := w.inserts.Do(ctx, in)
	if err != nil {
		return err
	}
	if err := m.Ack(); err != nil || row == 0 {
		return err
	}
	w.calls <- struct{}{}
	answer, out, err := w.post(ctx, in)
	<-w.calls
	if err != nil {
		return err
	}
	if _, err := w.records.Do(ctx, answered{row, out.SID, answer}); err != nil {
		return err
	}
	ack, err := w.publish(in, out)
	if err != nil {
		return err
	}
	select {
	case <-ack.Ok():
	case err := <-ack.Err():
		return err
	case <-ctx.Done():
		return errors.New("ended before the result was acknowledged")
	}
	_, err = w.marks.Do(ctx, row)
	return err
}
