package outbox

import (
	"context"
	"maps"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"flexworker/internal/database"
	"flexworker/internal/outbox/results"
)

// Configure sets up the connections of the worker's loops; whoever else reads our
// tables needs none of it.
func Configure(config *pgxpool.Config) {
	maps.Copy(config.ConnConfig.RuntimeParams, sessions)
	config.AfterConnect = func(ctx context.Context, conn *pgx.Conn) error {
		database.RegisterTexts(conn.TypeMap())
		return warm(ctx, conn)
	}
}

// sessions are the settings of those connections. Their statements find few rows
// by an index in a table of any size. On a table that is
// young, or fills faster than it is analyzed, the planner takes it for small and
// reads it whole, for as long as the plan is kept: 10,000 requests on an empty
// table cost four times as much. The statements of people read whole tables and
// are better off without. jit: the price of a scan that is off looks to the
// planner like one that is worth compiling for, which takes a second. plan_cache_mode:
// the arrays of a lone request make a plan of its own look cheaper than the kept one,
// so that each record was planned anew, which took as long as carrying it out.
var sessions = map[string]string{"jit": "off", "enable_seqscan": "off", "enable_hashjoin": "off", "enable_mergejoin": "off", "plan_cache_mode": "force_generic_plan"}

// warmLock is how long a new connection waits for a lock on our tables to be warm.
const warmLock = "100ms"

// warm carries out, with nothing to do, the three statements that every request
// needs. The first time on a connection Postgres reads what it knows of our tables
// and makes the plans, 9 to 22 ms in all: of a backlog that waited at a start the
// first was recorded after 66 ms, and is after 14. An error does not matter, unless
// it ends the connection: there may be no tables yet, no right to write them, or
// somebody who holds them locked, and not every statement needs them.
func warm(ctx context.Context, conn *pgx.Conn) error {
	ctx, cancel := database.Bounded(ctx)
	defer cancel()
	err := pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		// Before the batch: its statements take their locks as they are prepared.
		if _, err := tx.Exec(ctx, `SELECT set_config('lock_timeout', $1, true)`, warmLock); err != nil {
			return err
		}
		var b pgx.Batch
		b.Queue(addSQL, make([]any, addParameters)...)
		b.Queue(recordSQL, make([]any, recordParameters)...)
		b.Queue(results.MarkSQL, make([]any, results.MarkParameters)...)
		return tx.SendBatch(ctx, &b).Close()
	})
	if err != nil && conn.IsClosed() {
		return database.Wrap("connect", err)
	}
	return nil
}
