package database

import (
	"context"
	"maps"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// ForLoops sets up the connections of the worker's loops. Who reads the tables for a person needs nothing of this.
func ForLoops(config *pgxpool.Config) {
	maps.Copy(config.ConnConfig.RuntimeParams, sessions)
	config.AfterConnect = func(_ context.Context, conn *pgx.Conn) error {
		RegisterTexts(conn.TypeMap())
		return nil
	}
}

// ForReads sets up the connections through which people look. How many there are and how long a statement may take is for
// others to say.
func ForReads(config *pgxpool.Config) {
	for name, value := range reads {
		Set(config.ConnConfig, name, value)
	}
}

// reads are the settings of those connections. Each statement is planned for what it is asked: how many rows a
// condition has depends on it. As in sessions, a plan reads indexes alone. A scan of a table of one row that is off
// looks like one that is worth processes of its own.
var reads = map[string]string{
	"jit": "off", "enable_seqscan": "off", "enable_hashjoin": "off", "enable_mergejoin": "off", "plan_cache_mode": "force_custom_plan",
	"max_parallel_workers_per_gather": "0",
}

// sessions are the settings of the connections of the loops. Their statements find few rows
// by an index in a table of any size. On a table that is
// young, or fills faster than it is analyzed, the planner takes it for small and
// reads it whole, for as long as the plan is kept: 10,000 requests on an empty
// table cost four times as much. The statements of people read whole tables and
// are better off without. jit: the price of a scan that is off looks to the
// planner like one that is worth compiling for, which takes a second. plan_cache_mode:
// the arrays of a lone request make a plan of its own look cheaper than the kept one,
// so that each record was planned anew, which took as long as carrying it out. max_parallel_workers_per_gather: several
// processes that read a whole index look cheaper than one that searches a small one. Beside 200,000 set-ups the read of unpublished
// words took 460 ms of three processes; without, it takes 9 ms of one.
var sessions = map[string]string{
	"jit": "off", "enable_seqscan": "off", "enable_hashjoin": "off", "enable_mergejoin": "off", "plan_cache_mode": "force_generic_plan",
	"max_parallel_workers_per_gather": "0",
}
