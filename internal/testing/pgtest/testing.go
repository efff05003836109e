package pgtest

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
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

// startLimit ends a start that hangs. A start takes half a second; with fifty busy programs on two cores it took more than a minute.
const startLimit = 5 * time.Minute

// NewServer starts a server for one test, which may kill it. Its data goes when the test ends.
func NewServer(t testing.TB) *Server {
	t.Helper()
	return NewServerWith(t, Options{})
}

// NewServerWith is NewServer with options, whose data is in memory unless they name a folder.
func NewServerWith(t testing.TB, o Options) *Server {
	t.Helper()
	made, err := empty()
	if err != nil {
		t.Fatal(err)
	}
	o.memory, o.copyOf = o.Dir == "", made.data()
	return newServer(t, o)
}

// NewStandby starts a hot standby of a server that a test has started. From then on every commit there waits for
// it (synchronous_standby_names), so that a promoted standby has all that was ever said to be committed.
func NewStandby(t testing.TB, primary *Server) *Server {
	t.Helper()
	s := newServer(t, Options{memory: true, StandbyOf: primary})
	execute(t, primary.DSN("postgres"), "ALTER SYSTEM SET synchronous_standby_names = '*'")
	execute(t, primary.DSN("postgres"), "SELECT pg_reload_conf()")
	return s
}

// NewAsynchronousStandby starts a hot standby for which no commit waits. Unfollow makes it miss all that comes.
func NewAsynchronousStandby(t testing.TB, primary *Server) *Server {
	t.Helper()
	return newServer(t, Options{memory: true, StandbyOf: primary})
}

// Unfollow cuts a standby off from its primary, once it has all that was committed there until now.
func (s *Server) Unfollow(t testing.TB, primary *Server) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), startLimit)
	defer cancel()
	ask := func(of *Server, sql string, args ...any) (answer string) {
		t.Helper()
		conn, err := pgx.Connect(ctx, of.DSN("postgres"))
		if err != nil {
			t.Fatal(err)
		}
		err = conn.QueryRow(ctx, sql, args...).Scan(&answer)
		if err = errors.Join(err, conn.Close(ctx)); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
		return answer
	}
	committed := ask(primary, `SELECT pg_current_wal_lsn()::text`)
	until := func(sql string, args ...any) {
		t.Helper()
		again := time.NewTicker(10 * time.Millisecond)
		defer again.Stop()
		for ask(s, sql, args...) != "true" {
			select {
			case <-ctx.Done():
				t.Fatalf("still not: %s", sql)
			case <-again.C:
			}
		}
	}
	until(`SELECT (pg_last_wal_replay_lsn() >= $1::text::pg_lsn)::text`, committed)
	execute(t, s.DSN("postgres"), "ALTER SYSTEM SET primary_conninfo = ''")
	execute(t, s.DSN("postgres"), "SELECT pg_reload_conf()")
	until(`SELECT (count(*) = 0)::text FROM pg_stat_wal_receiver`)
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

// Put writes a file into the server's data folder, such as its certificate, which nobody but the server's user may read.
func (s *Server) Put(t testing.TB, name string, content []byte) {
	t.Helper()
	path := filepath.Join(s.data(), name)
	// Beside it, then over it: a reload may come at any time.
	err := os.WriteFile(path+".new", content, 0o600)
	if owner := s.identity.Credential; err == nil && owner != nil {
		err = os.Chown(path+".new", int(owner.Uid), int(owner.Gid))
	}
	if err = errors.Join(err, os.Rename(path+".new", path)); err != nil {
		t.Fatal(err)
	}
}

// Plan is how Postgres would carry out a statement of the worker, without costs. It fails the test when the whole of table outbox
// would be read, or when processes beside the connection's own would read: on a large table these look cheaper than the right index.
func Plan(t testing.TB, pool *pgxpool.Pool, sql string, args ...any) string {
	t.Helper()
	// So the small tables of a test tempt the planner as large ones do.
	plan := explain(t, pool, `SET LOCAL min_parallel_table_scan_size = 0; SET LOCAL min_parallel_index_scan_size = 0;
		SET LOCAL parallel_setup_cost = 0; SET LOCAL parallel_tuple_cost = 0`, sql, args...)
	if strings.Contains(plan, "Gather") {
		t.Errorf("several processes read:\n%s", plan)
	}
	return plan
}

// PlanOfOthers is the same of a statement of somebody who has not the worker's settings of the planner. Several processes may read.
func PlanOfOthers(t testing.TB, pool *pgxpool.Pool, sql string, args ...any) string {
	t.Helper()
	return explain(t, pool, "", sql, args...)
}

func explain(t testing.TB, pool *pgxpool.Pool, settings, sql string, args ...any) string {
	t.Helper()
	var lines []string
	err := pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(t.Context(), settings); err != nil {
			return err
		}
		rows, err := tx.Query(t.Context(), "EXPLAIN (COSTS OFF) "+sql, args...)
		if err != nil {
			return err
		}
		lines, err = pgx.CollectRows(rows, pgx.RowTo[string])
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	plan := strings.Join(lines, "\n")
	if strings.Contains(plan+"\n", "Seq Scan on outbox\n") || strings.Contains(plan, "Seq Scan on outbox ") {
		t.Errorf("the whole table is read:\n%s", plan)
	}
	return plan
}

// Template is a database that is migrated once and copied for each test that wants its tables. A copy takes a twentieth of
// the time of a migration. Where TEST_DATABASE_URL names the server each test migrates a database of its own.
type Template struct {
	migrate func(ctx context.Context, dsn string) (int, error)

	once     sync.Once
	database string
	err      error
}

// NewTemplate makes one for the tests of a package. migrate gets the connection string of an empty database, and must close
// what it opens.
func NewTemplate(migrate func(ctx context.Context, dsn string) (int, error)) *Template {
	return &Template{migrate: migrate}
}

// NewDSN makes a database with the tables and returns its connection string. The database is dropped when the test ends.
func (m *Template) NewDSN(t testing.TB) string {
	t.Helper()
	if os.Getenv("TEST_DATABASE_URL") != "" {
		dsn := NewDSN(t)
		if _, err := m.migrate(t.Context(), dsn); err != nil {
			t.Fatalf("migrate: %v", err)
		}
		return dsn
	}
	m.once.Do(func() {
		m.database = uniqueName()
		makeOrDrop(t, "CREATE DATABASE "+m.database)
		_, m.err = m.migrate(t.Context(), inDatabase(t, sharedDSN(t), m.database))
	})
	if m.err != nil {
		t.Fatalf("migrate: %v", m.err)
	}
	return newDatabase(t, m.database)
}

// NewPool makes a database with the tables and returns connections to it; pool.Config().ConnString() leads others there.
// configure sets the connections up as the code under test would; nil: as they come. The pool is closed and the database
// dropped when the test ends.
func (m *Template) NewPool(t testing.TB, configure func(*pgxpool.Config)) *pgxpool.Pool {
	t.Helper()
	config, err := pgxpool.ParseConfig(m.NewDSN(t))
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
	return newDatabase(t, "template0")
}

func newDatabase(t testing.TB, template string) string {
	t.Helper()
	database := uniqueName()
	// Files are copied, since the other strategy reads and logs each page: twice the processor time.
	makeOrDrop(t, "CREATE DATABASE "+database+" TEMPLATE "+template+" STRATEGY file_copy")
	t.Cleanup(func() { makeOrDrop(t, "DROP DATABASE "+database+" WITH (FORCE)") })
	return inDatabase(t, sharedDSN(t), database)
}

// inDatabase is a connection string to another database of the same server.
func inDatabase(t testing.TB, dsn, database string) string {
	t.Helper()
	u, err := url.Parse(dsn)
	if err != nil {
		t.Fatal("TEST_DATABASE_URL must be a URL, postgres://...") // the error would quote it, with its password
	}
	u.Path = "/" + database
	return u.String()
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
// a goroutine behind. Without it the server goes with the process, a moment later. ends stop what else the tests share.
//
//	func TestMain(m *testing.M) { os.Exit(pgtest.Run(m)) }
func Run(m *testing.M, ends ...func()) (code int) {
	code = m.Run()
	for _, end := range ends {
		end()
	}
	if pool := made.Load(); pool != nil {
		pool.Close()
	}
	var err error
	for _, s := range []*Server{shared.Load(), unstarted.Load()} {
		if s != nil {
			err = errors.Join(err, s.Stop())
		}
	}
	if code == 0 {
		err = errors.Join(err, leftBehind())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	return code
}

// leftBehind are the goroutines that do not end by themselves. A dial into a black hole that its call has given up does, after
// some seconds; one look is patient for less than two.
func leftBehind() (err error) {
	for range 10 {
		if err = goleak.Find(
			// A NATS server inside the process leaves these three behind for good.
			goleak.IgnoreAnyFunction("github.com/nats-io/nats-server/v2/server.(*ipQueue[...]).pop"),
			goleak.IgnoreAnyFunction("github.com/nats-io/nats-server/v2/server.(*fileStore).flushLoop"),
			goleak.IgnoreAnyFunction("github.com/nats-io/nats-server/v2/server/ats.init.0.func1"),
		); err == nil {
			return nil
		}
	}
	return err
}

// What the tests of one process share: the whole use of these is that there is one of each.
var (
	names  atomic.Int64
	shared atomic.Pointer[Server]
	server = sync.OnceValues(func() (*Server, error) {
		ctx, cancel := context.WithTimeout(context.Background(), startLimit)
		defer cancel()
		// Nobody kills this server, and only a crash of the machine needs fsync and full pages. No autovacuum comes, or does not, before a
		// test looks at a plan: what it wants vacuumed or analyzed it does itself.
		s, err := Start(ctx, Options{memory: true, Settings: map[string]string{
			"fsync": "off", "full_page_writes": "off", "max_wal_size": "128MB", "max_connections": "300", "autovacuum": "off"}})
		shared.Store(s)
		return s, err
	})
)

// empty is a server that is never started: the servers that tests start by themselves begin as copies of its data folder. A copy takes
// a seventh of initdb's time. unstarted is the same server, for Run to remove.
var (
	unstarted atomic.Pointer[Server]
	empty     = sync.OnceValues(func() (*Server, error) {
		ctx, cancel := context.WithTimeout(context.Background(), startLimit)
		defer cancel()
		bin, err := binaries()
		if err != nil {
			return nil, err
		}
		s := &Server{options: Options{memory: true}, bin: bin, log: &tail{}}
		unstarted.Store(s)
		if err = s.settle(); err == nil {
			err = s.initdb(ctx)
		}
		return s, err
	})
)

func uniqueName() string { return fmt.Sprintf("test_%d_%d", os.Getpid(), names.Add(1)) }

// databases are the connections on which databases for tests are made and dropped: a connection of its own for each statement is dear.
// made is the same pool, for Run to close.
var (
	made      atomic.Pointer[pgxpool.Pool]
	databases = sync.OnceValues(func() (*pgxpool.Pool, error) {
		dsn := os.Getenv("TEST_DATABASE_URL")
		if dsn == "" {
			s, err := server()
			if err != nil {
				return nil, err
			}
			dsn = s.DSN("postgres")
		}
		pool, err := pgxpool.New(context.Background(), dsn)
		made.Store(pool)
		return pool, err
	})
)

// sharedDSN is the connection string of the server that the tests of this process share.
func sharedDSN(t testing.TB) string {
	t.Helper()
	pool, err := databases()
	if err != nil {
		t.Fatal(err)
	}
	return pool.Config().ConnString()
}

// makeOrDrop makes or drops a database there. Cleanups call it too, when the test's context is over.
func makeOrDrop(t testing.TB, sql string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), startLimit)
	defer cancel()
	pool, err := databases()
	if err == nil {
		_, err = pool.Exec(ctx, sql)
	}
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

// execute runs one statement on a connection of its own.
func execute(t testing.TB, dsn, sql string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), startLimit)
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
