package pgtest_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"flexworker/internal/testing/expect"
	"flexworker/internal/testing/pgtest"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv("OUTBOXTEST_CHILD"); dir != "" {
		child(dir)
	}
	os.Exit(pgtest.Run(m))
}

// child starts a server, says where it is, and waits to be killed.
func child(dir string) {
	s, err := pgtest.Start(context.Background(), pgtest.Options{})
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	if err := os.WriteFile(filepath.Join(dir, "dsn"), []byte(s.DSN("postgres")), 0o600); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println("ready")
	select {}
}

var migrated = pgtest.NewTemplate(migrate)

// migrate makes one table, as a migration would, and closes what it opened.
func migrate(ctx context.Context, dsn string) (int, error) {
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return 0, err
	}
	_, err = conn.Exec(ctx, "CREATE TABLE word (word text PRIMARY KEY)")
	return 1, errors.Join(err, conn.Close(ctx))
}

func connect(t *testing.T, dsn string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.WithoutCancel(t.Context())) })
	return conn
}

// TestPoolsAreApart has two parallel tests write the same key; each must find its own row only.
func TestPoolsAreApart(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"one", "other"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool := migrated.NewPool(t, nil)
			if _, err := pool.Exec(t.Context(), "INSERT INTO word VALUES ('same')"); err != nil {
				t.Fatal(err)
			}
			if n := pgtest.One[int](t, pool, "SELECT count(*) FROM word"); n != 1 {
				t.Errorf("%d rows, want 1", n)
			}
			// What the pool tells others to connect to is the same place.
			if n := pgtest.One[int](t, connect(t, pool.Config().ConnString()), "SELECT count(*) FROM word"); n != 1 {
				t.Errorf("%d rows by the connection string, want 1", n)
			}
		})
	}
}

func TestDSNIsEmptyAndDropped(t *testing.T) {
	t.Parallel()
	var dsn string
	t.Run("use", func(t *testing.T) {
		dsn = pgtest.NewDSN(t)
		conn := connect(t, dsn)
		if n := pgtest.One[int](t, conn, "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'"); n != 0 {
			t.Errorf("%d tables, want none", n)
		}
		pgtest.Exec(t, conn, "CREATE TABLE word (word text)")
	})
	if conn, err := pgx.Connect(t.Context(), dsn); err == nil {
		_ = conn.Close(t.Context())
		t.Error("the database outlived its test")
	}
}

// TestCommittedRowsSurvive ends the server in each way it can end and looks for what was committed before.
func TestCommittedRowsSurvive(t *testing.T) {
	t.Parallel()
	s := pgtest.NewServer(t)
	if _, err := migrate(t.Context(), s.DSN("postgres")); err != nil {
		t.Fatal(err)
	}
	for i, end := range []func() error{s.Kill, s.Immediate, s.Shutdown} {
		conn := connect(t, s.DSN("postgres"))
		pgtest.Exec(t, conn, fmt.Sprintf("INSERT INTO word VALUES ('%d')", i))
		if err := end(); err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Exec(t.Context(), "SELECT 1"); err == nil {
			t.Error("the connection survived the server")
		}
		if err := end(); err == nil {
			t.Error("ending a server that does not run: no error")
		}
		if err := s.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
		if n := pgtest.One[int](t, connect(t, s.DSN("postgres")), "SELECT count(*) FROM word"); n != i+1 {
			t.Errorf("%d rows, want %d", n, i+1)
		}
	}
	if err := s.Restart(t.Context()); err == nil {
		t.Error("starting a server that runs: no error")
	}
}

// TestPauseAndResume: while paused, an open connection and a new one hang; the open one's answer comes after Resume.
func TestPauseAndResume(t *testing.T) {
	t.Parallel()
	s := pgtest.NewServer(t)
	conn := connect(t, s.DSN("postgres"))
	if err := s.Pause(); err != nil {
		t.Fatal(err)
	}
	answer := make(chan error, 1)
	go func() {
		_, err := conn.Exec(t.Context(), "SELECT 1")
		answer <- err
	}()
	short, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, err := pgx.Connect(short, s.DSN("postgres")); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a new connection: got %v, want a hang", err)
	}
	select {
	case err := <-answer:
		t.Fatalf("a paused server answered: %v", err)
	default:
	}
	if err := s.Resume(); err != nil {
		t.Fatal(err)
	}
	if err := <-answer; err != nil {
		t.Errorf("after Resume: %v", err)
	}
}

// TestStopWhilePaused: what a fault test leaves behind must not stop its cleanup.
func TestStopWhilePaused(t *testing.T) {
	t.Parallel()
	s := pgtest.NewServer(t)
	connect(t, s.DSN("postgres"))
	if err := s.Pause(); err != nil {
		t.Fatal(err)
	}
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
}

// TestDirIsKept starts twice on one folder: the second finds the rows of the first, and a third beside it is refused.
func TestDirIsKept(t *testing.T) {
	t.Parallel()
	// Not t.TempDir: as root its parent is closed to the user that Postgres runs as.
	dir, err := os.MkdirTemp("", "pgtest-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	for i := range 2 {
		s, err := pgtest.Start(t.Context(), pgtest.Options{Dir: dir})
		if err != nil {
			t.Fatal(err)
		}
		conn := connect(t, s.DSN("postgres"))
		pgtest.Exec(t, conn, "CREATE TABLE IF NOT EXISTS word (word text)")
		pgtest.Exec(t, conn, "INSERT INTO word VALUES ('kept')")
		if n := pgtest.One[int](t, conn, "SELECT count(*) FROM word"); n != i+1 {
			t.Errorf("start %d: %d rows, want %d", i, n, i+1)
		}
		if other, err := pgtest.Start(t.Context(), pgtest.Options{Dir: dir}); err == nil {
			t.Error("a second server on the same folder started")
			_ = other.Stop()
		}
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
	}
}

// TestNothingOutlivesItsProcess kills a process that started a server, and waits until server and folder are gone.
// A folder that was left earlier goes too.
func TestNothingOutlivesItsProcess(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	temp, err := os.MkdirTemp("", "pgtest-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(temp) })
	if err := os.Chmod(temp, 0o777|os.ModeSticky); err != nil {
		t.Fatal(err)
	}
	// What another process left that died together with its keeper.
	left := filepath.Join(temp, "flexworker-postgres-left")
	old := time.Now().Add(-time.Hour)
	if err := errors.Join(os.Mkdir(left, 0o700), os.Chtimes(left, old, old)); err != nil {
		t.Fatal(err)
	}
	c := exec.Command(os.Args[0])
	c.Env = append(os.Environ(), "OUTBOXTEST_CHILD="+dir, "TMPDIR="+temp)
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	said := make([]byte, 1024)
	n, _ := out.Read(said)
	if !strings.HasPrefix(string(said[:n]), "ready") {
		t.Fatalf("the child said %q", said[:n])
	}
	dsn, err := os.ReadFile(filepath.Join(dir, "dsn"))
	if err != nil {
		t.Fatal(err)
	}
	connect(t, string(dsn))
	if err := c.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = c.Wait()
	expect.Eventually(t, func() error {
		if left, _ := filepath.Glob(filepath.Join(temp, "*")); len(left) > 0 { // the pattern is right
			return fmt.Errorf("left behind: %v", left)
		}
		conn, err := pgx.Connect(t.Context(), string(dsn))
		if err == nil {
			return errors.Join(errors.New("it still answers"), conn.Close(t.Context()))
		}
		return nil
	})
}

func TestMissingBinariesSayWhatToInstall(t *testing.T) {
	t.Setenv("FLEXWORKER_PG_BIN", t.TempDir())
	_, err := pgtest.Start(t.Context(), pgtest.Options{})
	if err == nil || !strings.Contains(err.Error(), "FLEXWORKER_PG_BIN") {
		t.Errorf("got %v", err)
	}
}

// BenchmarkNewPool is what a test pays for its tables, BenchmarkNewDSN for an empty database.
func BenchmarkNewPool(b *testing.B) {
	var pool *pgxpool.Pool
	for b.Loop() {
		pool = migrated.NewPool(b, nil)
	}
	_ = pool
}

func BenchmarkNewDSN(b *testing.B) {
	for b.Loop() {
		pgtest.NewDSN(b)
	}
}
