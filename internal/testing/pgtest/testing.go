package pgtest

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"go.uber.org/goleak"
)

const startLimit = time.Minute // for a start on a busy machine; usually it takes half a second

// NewServer starts a server for one test, which may kill it. Its data goes when the test ends.
func NewServer(t testing.TB) *Server {
	t.Helper()
	return newServer(t, Options{})
}

// NewStandby starts a hot standby of a server that a test has started. From then on every commit there waits for
// it (synchronous_standby_names), so that a promoted standby has all that was ever said to be committed.
func NewStandby(t testing.TB, primary *Server) *Server {
	t.Helper()
	s := newServer(t, Options{StandbyOf: primary})
	execute(t, primary.DSN("postgres"), "ALTER SYSTEM SET synchronous_standby_names = '*'")
	execute(t, primary.DSN("postgres"), "SELECT pg_reload_conf()")
	return s
}

func newServer(t testing.TB, o Options) *Server {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), startLimit)
	defer cancel()
	s, err := Start(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Stop(); err != nil {
			t.Errorf("stop postgres: %v", err)
		}
		if t.Failed() {
			t.Logf("postgres wrote:\n%s", s.log)
		}
	})
	return s
}

// Plan is how Postgres would carry out a statement, without costs. It fails the test when the whole of table outbox would be read.
func Plan(t testing.TB, pool *pgxpool.Pool, sql string, args ...any) string {
	t.Helper()
	rows, err := pool.Query(t.Context(), "EXPLAIN (COSTS OFF) "+sql, args...)
	if err != nil {
		t.Fatal(err)
	}
	lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	plan := strings.Join(lines, "\n")
	if strings.Contains(plan+"\n", "Seq Scan on outbox\n") || strings.Contains(plan, "Seq Scan on outbox ") {
		t.Errorf("the whole table is read:\n%s", plan)
	}
	return plan
}

// NewPool migrates a schema of the test's own and returns connections to it. migrate gets a connection string whose
// search_path is that schema, and must close what it opens; the same string is pool.Config().ConnString(). configure sets
// the connections up as the code under test would; nil: as they come. The pool is closed and the schema dropped when the test ends.
//
// A schema and not a database, since the copy of a database writes 7 MB and took 50 to 250 ms on a busy machine, where a
// schema was there and migrated in 50. What is shared is therefore what Postgres keeps by database: advisory locks and
// pg_stat_activity. A test of those takes NewDSN. Migrations run one at a time, so that their locks do not meet. In
// TEST_DATABASE_URL, where tests of other processes migrate too, it is a database after all.
func NewPool(t testing.TB, migrate func(ctx context.Context, dsn string) (int, error), configure func(*pgxpool.Config)) *pgxpool.Pool {
	t.Helper()
	var dsn string
	if os.Getenv("TEST_DATABASE_URL") != "" {
		dsn = NewDSN(t)
	} else {
		dsn = newSchema(t)
	}
	migration.Lock()
	_, err := migrate(t.Context(), dsn)
	migration.Unlock()
	if err != nil {
		t.Fatalf("migrate: %v", err)
	}
	config, err := pgxpool.ParseConfig(dsn)
	if err != nil {
		t.Fatal(err)
	}
	config.MaxConns = 8
	if configure != nil {
		configure(config)
	}
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool
}

// NewDSN makes an empty database and returns its connection string. The database is dropped when the test ends.
func NewDSN(t testing.TB) string {
	t.Helper()
	dsn := sharedDSN(t)
	database := uniqueName()
	execute(t, dsn, "CREATE DATABASE "+database+" TEMPLATE template0")
	t.Cleanup(func() { execute(t, dsn, "DROP DATABASE "+database+" WITH (FORCE)") })
	u, err := url.Parse(dsn)
	if err != nil {
		t.Fatal("TEST_DATABASE_URL must be a URL, postgres://...") // the error would quote it, with its password
	}
	u.Path = "/" + database
	return u.String()
}

// newSchema makes a schema in the shared server and returns a connection string that finds everything in it.
func newSchema(t testing.TB) string {
	t.Helper()
	dsn := sharedDSN(t)
	schema := uniqueName()
	execute(t, dsn, "CREATE SCHEMA "+schema)
	t.Cleanup(func() { execute(t, dsn, "DROP SCHEMA "+schema+" CASCADE") })
	return dsn + "&search_path=" + schema
}

// Exec runs a statement that a test needs to make time or damage. db is a pool, a connection or a transaction.
func Exec(t testing.TB, db interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
}, sql string, args ...any,
) {
	t.Helper()
	if _, err := db.Exec(t.Context(), sql, args...); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

// One asks for a single value. db is a pool, a connection or a transaction.
func One[T any](t testing.TB, db interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}, sql string, args ...any,
) T {
	t.Helper()
	var v T
	if err := db.QueryRow(t.Context(), sql, args...).Scan(&v); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return v
}

// Deref is the value of a nullable column: the zero value for NULL.
func Deref[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}

// Run runs the tests of a package and stops the server that NewPool and NewDSN started. It fails the run when a test left
// a goroutine behind. Without it the server goes with the process, a moment later.
//
//	func TestMain(m *testing.M) { os.Exit(pgtest.Run(m)) }
func Run(m *testing.M) (code int) {
	code = m.Run()
	var err error
	if s := shared.Load(); s != nil {
		err = s.Stop()
	}
	if code == 0 {
		err = errors.Join(err, goleak.Find(
			// A NATS server inside the process leaves these three behind for good.
			goleak.IgnoreAnyFunction("github.com/nats-io/nats-server/v2/server.(*ipQueue[...]).pop"),
			goleak.IgnoreAnyFunction("github.com/nats-io/nats-server/v2/server.(*fileStore).flushLoop"),
			goleak.IgnoreAnyFunction("github.com/nats-io/nats-server/v2/server/ats.init.0.func1"),
		))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	return code
}

// What the tests of one process share: the whole use of these is that there is one of each.
var (
	migration sync.Mutex
	names     atomic.Int64
	shared    atomic.Pointer[Server]
	server    = sync.OnceValues(func() (*Server, error) {
		ctx, cancel := context.WithTimeout(context.Background(), startLimit)
		defer cancel()
		// Nobody kills this server, and only a crash of the machine needs fsync.
		s, err := Start(ctx, Options{Settings: map[string]string{"fsync": "off", "max_connections": "300"}})
		shared.Store(s)
		return s, err
	})
)

func uniqueName() string { return fmt.Sprintf("test_%d_%d", os.Getpid(), names.Add(1)) }

func sharedDSN(t testing.TB) string {
	t.Helper()
	if dsn := os.Getenv("TEST_DATABASE_URL"); dsn != "" {
		return dsn
	}
	s, err := server()
	if err != nil {
		t.Fatal(err)
	}
	return s.DSN("postgres")
}

// execute runs one statement on a connection of its own. Cleanups call it too, when the test's context is over.
func execute(t testing.TB, dsn, sql string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), startLimit)
	defer cancel()
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	_, err = conn.Exec(ctx, sql)
	if err = errors.Join(err, conn.Close(ctx)); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}
