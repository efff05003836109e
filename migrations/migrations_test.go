package migrations_test

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"

	"flexworker/internal/database"
	"flexworker/internal/outbox/request"
	"flexworker/internal/testing/pgtest"
	"flexworker/migrations"
)

func connect(t *testing.T, dsn string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(t.Context()) }) // the database is dropped with force
	return conn
}

func up(t *testing.T, dsn string) int {
	t.Helper()
	n, err := migrations.Up(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// names asks for one column of text.
func names(t *testing.T, conn *pgx.Conn, sql string) []string {
	t.Helper()
	rows, err := conn.Query(t.Context(), sql)
	if err != nil {
		t.Fatal(err)
	}
	list, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	return list
}

const ours = `SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace
	AND relkind IN ('r', 'v', 'i', 'S') AND relname NOT LIKE 'outbox_migrations%'
	UNION ALL SELECT typname FROM pg_type WHERE typnamespace = 'public'::regnamespace AND typtype = 'd' ORDER BY 1`

// TestUpAndDown: every step up, back to nothing, and up again to the same.
func TestUpAndDown(t *testing.T) {
	t.Parallel()
	dsn := pgtest.NewDSN(t)
	conn := connect(t, dsn)
	files, err := filepath.Glob("*.sql")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	check := func(applied int) {
		t.Helper()
		steps, err := migrations.Status(t.Context(), dsn)
		if err != nil || len(steps) != len(files) {
			t.Fatalf("%v, %v, want %d steps", steps, err, len(files))
		}
		for i, s := range steps {
			if s.Version != int64(i+1) || s.Name != files[i] || s.Applied != (i < applied) {
				t.Errorf("%+v, want %s, %d applied", s, files[i], applied)
			}
		}
		want := migrations.ErrBehind
		if applied == len(files) {
			want = nil
		}
		if err := migrations.Check(t.Context(), conn); !errors.Is(err, want) {
			t.Errorf("check with %d applied: %v", applied, err)
		}
	}
	check(0)
	if n := up(t, dsn); n != len(files) {
		t.Errorf("%d steps, want %d", n, len(files))
	}
	check(len(files))
	full := names(t, conn, ours)
	if n := up(t, dsn); n != 0 {
		t.Errorf("%d steps where nothing was to do", n)
	}
	for left := len(files) - 1; left >= 0; left-- {
		name, err := migrations.Down(t.Context(), dsn)
		if err != nil || name != files[left] {
			t.Fatalf("down: %q, %v, want %q", name, err, files[left])
		}
		check(left)
	}
	if name, err := migrations.Down(t.Context(), dsn); name != "" || err != nil {
		t.Errorf("down from nothing: %q, %v", name, err)
	}
	if rest := names(t, conn, ours); len(rest) > 0 {
		t.Errorf("left behind: %v", rest)
	}
	up(t, dsn)
	if again := names(t, conn, ours); !slices.Equal(again, full) {
		t.Errorf("up again: %v, want %v", again, full)
	}
}

// TestUpConcurrent: of many replicas that start on an empty database one takes
// the steps.
func TestUpConcurrent(t *testing.T) {
	t.Parallel()
	dsn := pgtest.NewDSN(t)
	var steps atomic.Int64
	var all sync.WaitGroup
	for range 5 {
		all.Go(func() {
			n, err := migrations.Up(t.Context(), dsn)
			if err != nil {
				t.Error(err)
			}
			steps.Add(int64(n))
		})
	}
	all.Wait()
	if files, _ := filepath.Glob("*.sql"); steps.Load() != int64(len(files)) {
		t.Errorf("%d steps were taken, want %d", steps.Load(), len(files))
	}
	if err := migrations.Check(t.Context(), connect(t, dsn)); err != nil {
		t.Error(err)
	}
}

// TestAhead: the next version's database will do, and its steps stay.
func TestAhead(t *testing.T) {
	t.Parallel()
	dsn := pgtest.NewDSN(t)
	conn := connect(t, dsn)
	up(t, dsn)
	if _, err := conn.Exec(t.Context(), `INSERT INTO outbox_migrations (version_id, is_applied) VALUES (9999, true)`); err != nil {
		t.Fatal(err)
	}
	if err := migrations.Check(t.Context(), conn); err != nil {
		t.Error(err)
	}
	if n, err := migrations.Up(t.Context(), dsn); n != 0 || err != nil {
		t.Errorf("up on a database that is ahead: %d, %v", n, err)
	}
}

// TestBadDSN: no secret of the connection string is in the error.
func TestBadDSN(t *testing.T) {
	t.Parallel()
	const secret = "hunter2"
	for _, dsn := range []string{"postgres://u:" + secret + "@127.0.0.1:1/db?connect_timeout=1", "postgres://u:" + secret + "@h:port/db"} {
		_, err := migrations.Up(t.Context(), dsn)
		if err == nil {
			t.Errorf("%s: no error", dsn)
		} else if strings.Contains(err.Error(), secret) {
			t.Errorf("%v", err)
		}
	}
}

// TestNoRight: a role that may not change the schema hears who may, and how it does
// without.
func TestNoRight(t *testing.T) {
	t.Parallel()
	dsn := pgtest.NewDSN(t)
	conn := connect(t, dsn)
	role := "reader_" + regexp.MustCompile(`\W`).ReplaceAllString(conn.Config().Database, "_")
	if _, err := conn.Exec(t.Context(), `CREATE ROLE `+role+` LOGIN PASSWORD 'p'`); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // a role belongs to the server
		if _, err := conn.Exec(context.WithoutCancel(t.Context()), `DROP ROLE `+role); err != nil {
			t.Error(err)
		}
	})
	poor, err := url.Parse(dsn)
	if err != nil {
		t.Fatal(err)
	}
	poor.User = url.UserPassword(role, "p")
	if _, err := migrations.Up(t.Context(), poor.String()); err == nil || !strings.Contains(err.Error(), "MIGRATE=false") {
		t.Errorf("%v", err)
	}
}

// TestAddressOfPool: one address serves the pool and the migrations, whichever parameters of
// either it has. (oasisprotocol/nexus#962)
func TestAddressOfPool(t *testing.T) {
	t.Parallel()
	dsn := pgtest.NewDSN(t)
	if n, err := migrations.Up(t.Context(), dsn+"&pool_max_conns=20&pool_max_conn_lifetime=1h&default_query_exec_mode=exec&statement_cache_capacity=7"); err != nil || n == 0 {
		t.Errorf("%d steps, %v", n, err)
	}
	config, err := pgx.ParseConfig(dsn)
	if err != nil {
		t.Fatal(err)
	}
	pairs := fmt.Sprintf("host=%s port=%d user=%s dbname=%s sslmode=disable pool_min_conns=2", config.Host, config.Port, config.User, config.Database)
	if steps, err := migrations.Status(t.Context(), pairs); err != nil || len(steps) == 0 || !steps[0].Applied {
		t.Errorf("%+v, %v", steps, err)
	}
}

// TestForms: goose reads times, in whichever form the database would write them.
func TestForms(t *testing.T) {
	t.Parallel()
	dsn := pgtest.NewDSN(t)
	conn := connect(t, dsn)
	if _, err := conn.Exec(t.Context(), `ALTER DATABASE `+conn.Config().Database+` SET DateStyle = 'German, DMY'`); err != nil {
		t.Fatal(err)
	}
	for _, mode := range []string{"exec", "simple_protocol"} {
		up(t, dsn+"&default_query_exec_mode="+mode)
		if steps, err := migrations.Status(t.Context(), dsn+"&default_query_exec_mode="+mode); err != nil || !steps[0].Applied {
			t.Errorf("%s: %+v, %v", mode, steps, err)
		}
	}
}

// TestNoSchema: a search_path that leads nowhere is named, not its consequence.
func TestNoSchema(t *testing.T) {
	t.Parallel()
	dsn := pgtest.NewDSN(t)
	up(t, dsn)
	dsn += "&search_path=worekr"
	if _, err := migrations.Up(t.Context(), dsn); !errors.Is(err, migrations.ErrNoSchema) {
		t.Errorf("up: %v", err)
	}
	if err := migrations.Check(t.Context(), connect(t, dsn)); !errors.Is(err, migrations.ErrNoSchema) {
		t.Errorf("check: %v", err)
	}
}

// TestEncoding: no table is made in a database that cannot hold every text.
func TestEncoding(t *testing.T) {
	t.Parallel()
	dsn := pgtest.NewDSN(t)
	conn := connect(t, dsn)
	name := conn.Config().Database + "_ascii"
	if _, err := conn.Exec(t.Context(), `CREATE DATABASE `+name+` ENCODING 'SQL_ASCII' LOCALE 'C' TEMPLATE template0`); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if _, err := conn.Exec(context.WithoutCancel(t.Context()), `DROP DATABASE `+name); err != nil {
			t.Error(err)
		}
	})
	address, err := url.Parse(dsn)
	if err != nil {
		t.Fatal(err)
	}
	address.Path = name
	if _, err := migrations.Up(t.Context(), address.String()); !errors.Is(err, database.ErrEncoding) {
		t.Errorf("%v", err)
	}
}

// TestComments: every table, view and column says what it is.
func TestComments(t *testing.T) {
	t.Parallel()
	dsn := pgtest.NewDSN(t)
	up(t, dsn)
	conn := connect(t, dsn)
	for _, sql := range []string{
		`SELECT relname::text FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'v')
			AND relname <> 'outbox_migrations' AND coalesce(obj_description(oid, 'pg_class'), '') = ''`,
		`SELECT relname || '.' || attname FROM pg_class c JOIN pg_attribute a ON attrelid = c.oid
			WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' AND relname <> 'outbox_migrations'
			  AND attnum > 0 AND NOT attisdropped AND coalesce(col_description(c.oid, attnum), '') = ''`,
	} {
		if bare := names(t, conn, sql); len(bare) > 0 {
			t.Errorf("without a comment: %v", bare)
		}
	}
}

// TestStatesMatch: the states are the same, and in the same order, as constants,
// in the schema, in the package comment and in docs/operating.md.
func TestStatesMatch(t *testing.T) {
	t.Parallel()
	var want []string
	for _, s := range request.States {
		want = append(want, string(s))
	}
	dsn := pgtest.NewDSN(t)
	up(t, dsn)
	conn := connect(t, dsn)
	check := names(t, conn, `SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conname = 'state_is_known_and_settled_when_final'`)
	if len(check) != 1 {
		t.Fatal(check)
	}
	same := func(where string, got []string) {
		t.Helper()
		if !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", where, got, want)
		}
	}
	same("CHECK state_is_known...", first(regexp.MustCompile(`'(\w+)'`), check[0]))
	_, finals, _ := strings.Cut(check[0], "ELSE")
	var final []string
	for _, s := range request.States {
		if s.Final() {
			final = append(final, string(s))
		}
	}
	if got := first(regexp.MustCompile(`'(\w+)'`), finals); !slices.Equal(got, final) {
		t.Errorf("CHECK ...settled_when_final: %v, want %v", got, final)
	}
	doc, err := os.ReadFile("../internal/outbox/doc.go")
	if err != nil {
		t.Fatal(err)
	}
	same("doc.go", table(string(doc), regexp.MustCompile(`(?m)^\tstate +means`), regexp.MustCompile(`(?m)^\t(\w+) {2,}`)))
	page, err := os.ReadFile("../docs/operating.md")
	if err != nil {
		t.Fatal(err)
	}
	same("docs/operating.md", table(string(page), regexp.MustCompile("(?m)^\\| *`?state"), regexp.MustCompile("(?m)^\\| *`(\\w+)` *\\|")))
}

// first are the first groups of all matches.
func first(re *regexp.Regexp, text string) []string {
	var list []string
	for _, m := range re.FindAllStringSubmatch(text, -1) {
		list = append(list, m[1])
	}
	return list
}

// table reads the first column of the rows below a head, up to an empty line.
func table(text string, head, row *regexp.Regexp) []string {
	at := head.FindStringIndex(text)
	if at == nil {
		return []string{fmt.Sprintf("no table begins with %v", head)}
	}
	body := text[at[1]:]
	body = body[strings.Index(body, "\n")+1:]
	body, _, _ = strings.Cut(body, "\n\n")
	return first(row, body)
}
