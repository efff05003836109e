package main

import (
	"context"
	"testing"

	"github.com/jackc/pgx/v5"

	"flexworker/internal/testing/pgtest"
)

// TestPinnedSnapshot: a session that is idle in its transaction pins its snapshot, so that no vacuum removes what has
// changed since. What reads the table by its indexes reads more and more pages that hold nothing alive; requests go on, and come
// to the right ends.
func TestPinnedSnapshot(t *testing.T) {
	t.Parallel()
	r := rigOn(t, pgtest.NewServer(t).DSN("postgres"))
	in := r.read()
	pin, err := pgx.Connect(t.Context(), r.dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = pin.Close(context.WithoutCancel(t.Context())) }()
	tx, err := pin.BeginTx(t.Context(), pgx.TxOptions{IsoLevel: pgx.RepeatableRead})
	if err != nil {
		t.Fatal(err)
	}
	if n := pgtest.One[int](t, tx, `SELECT count(*) FROM outbox`); n != 0 { // the snapshot begins here
		t.Fatalf("%d rows before the first request", n)
	}
	const requests = 1000
	for range 2 {
		cfg := r.unhurried()
		r.start(cfg)
		r.says(cfg.AdminAddr, "ok", 200)
	}
	r.send("a", 0, requests)
	in.balanced(requests)
	r.uncounted()
	// Leases, by the index that each request has passed, on a session like the worker's.
	looks, err := pgx.Connect(t.Context(), r.dsn+"&enable_seqscan=off&enable_bitmapscan=off")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = looks.Close(context.WithoutCancel(t.Context())) }()
	read := func() int {
		t.Helper()
		r.must(`VACUUM outbox`)
		plan := pgtest.One[[]explained](t, looks, `EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) SELECT id FROM outbox WHERE state = 'sending' ORDER BY id LIMIT 10`)
		return plan[0].Plan.Hit + plan[0].Plan.Read
	}
	pinned := read()
	if n := pgtest.One[int](t, tx, `SELECT count(*) FROM outbox`); n != 0 {
		t.Errorf("the snapshot is not pinned: it sees %d rows", n)
	}
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	free := read()
	if pinned <= free {
		t.Errorf("the snapshot cost nothing: %d pages, and %d without", pinned, free)
	}
	t.Logf("after %d requests a search for leases that finds none reads %d pages, and %d when the snapshot is gone and VACUUM ran", requests, pinned, free)
}

// explained is what of a plan as JSON is read here.
type explained struct {
	Plan struct {
		Hit  int `json:"Shared Hit Blocks"`
		Read int `json:"Shared Read Blocks"`
	}
}
