package database_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"flexworker/internal/database"
	"flexworker/internal/testing/pgtest"
)

func parse(t *testing.T, dsn string) *pgxpool.Config {
	t.Helper()
	config, err := database.Parse(dsn)
	if err != nil {
		t.Fatal(err)
	}
	return config
}

func connect(t *testing.T, config *pgxpool.Config) *pgx.Conn {
	t.Helper()
	conn, err := pgx.ConnectConfig(t.Context(), config.ConnConfig)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.WithoutCancel(t.Context())) })
	return conn
}

func exec(t *testing.T, dsn string, sql ...string) {
	t.Helper()
	conn := connect(t, parse(t, dsn))
	for _, one := range sql {
		if _, err := conn.Exec(t.Context(), one); err != nil {
			t.Fatalf("%s: %v", one, err)
		}
	}
}

// TestForms: whatever database, role and address want for other programs, values come
// in the form that is read here.
func TestForms(t *testing.T) {
	t.Parallel()
	dsn := pgtest.NewDSN(t)
	name := parse(t, dsn).ConnConfig.Database
	exec(t, dsn, `ALTER DATABASE `+name+` SET DateStyle = 'SQL, DMY'`, `ALTER DATABASE `+name+` SET IntervalStyle = 'iso_8601'`,
		`ALTER DATABASE `+name+` SET bytea_output = 'escape'`, `ALTER DATABASE `+name+` SET extra_float_digits = -15`,
		`ALTER DATABASE `+name+` SET client_encoding = 'LATIN1'`, `ALTER DATABASE `+name+` SET TimeZone = 'Asia/Kolkata'`,
		`ALTER DATABASE `+name+` SET array_nulls = off`, `ALTER DATABASE `+name+` SET standard_conforming_strings = off`)
	for _, say := range []string{"", "&DateStyle=German&INTERVALSTYLE=sql_standard&timezone=Asia/Tokyo", "&options=-c%20DateStyle%3DGerman"} {
		for _, mode := range []string{"exec", "simple_protocol", "cache_statement"} {
			conn := connect(t, parse(t, dsn+say+"&default_query_exec_mode="+mode))
			var got string
			if err := conn.QueryRow(t.Context(), `
				SELECT concat_ws(' | ', timestamptz '2026-11-29 01:02:03.456789Z', interval '1 year 2 days 03:04:05', '\xc3a9'::bytea, 0.1::float8 + 0.2, 'é\',
				       ('{NULL}'::text[])[1] IS NULL)`).Scan(&got); err != nil {
				t.Fatal(say, mode, err)
			}
			if want := `2026-11-29 01:02:03.456789+00 | 1 year 2 days 03:04:05 | \xc3a9 | 0.30000000000000004 | é\ | t`; got != want {
				t.Errorf("%s in mode %s: %s, want %s", say, mode, got, want)
			}
		}
	}
}

// TestReadOnlySession: a session that answers "read-only" is not kept, and a new one is
// made only where the address asks for such.
func TestReadOnlySession(t *testing.T) {
	t.Parallel()
	dsn := pgtest.NewDSN(t)
	conn := connect(t, parse(t, dsn))
	if _, err := conn.Exec(t.Context(), `SET default_transaction_read_only = on`); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Exec(t.Context(), `CREATE TABLE x ()`); err == nil || !conn.IsClosed() {
		t.Errorf("the session is kept after %v", err)
	}
	exec(t, dsn, `ALTER DATABASE `+parse(t, dsn).ConnConfig.Database+` SET default_transaction_read_only = on`)
	for say, refused := range map[string]bool{"": true, "&target_session_attrs=read-write": true, "&target_session_attrs=any": false, "&target_session_attrs=read-only": false} {
		config := parse(t, dsn+say)
		database.OnlyReadWrite(config)
		conn, err := pgx.ConnectConfig(t.Context(), config.ConnConfig)
		if err == nil {
			_ = conn.Close(t.Context())
		}
		if (err != nil) != refused {
			t.Errorf("%q: %v", say, err)
		}
	}
}

// TestEncoding: Postgres refuses to read an escape of JSON that its encoding does not have,
// and so one row would stop a loop for all.
func TestEncoding(t *testing.T) {
	t.Parallel()
	dsn := pgtest.NewDSN(t)
	for _, encoding := range []string{"SQL_ASCII", "LATIN1"} {
		name := strings.ToLower(fmt.Sprintf("%s_%s", parse(t, dsn).ConnConfig.Database, encoding))
		exec(t, dsn, `CREATE DATABASE `+name+` ENCODING '`+encoding+`' LOCALE 'C' TEMPLATE template0`)
		config := parse(t, dsn)
		config.ConnConfig.Database = name
		if _, err := pgx.ConnectConfig(t.Context(), config.ConnConfig); !errors.Is(err, database.ErrEncoding) || !strings.Contains(fmt.Sprint(err), encoding) {
			t.Errorf("%s: %v", encoding, err)
		}
		exec(t, dsn, `DROP DATABASE `+name)
	}
}

func TestSaid(t *testing.T) {
	t.Parallel()
	for dsn, want := range map[string]bool{
		"postgres://u:p@h/d?pool_max_conns=3":      true,
		"postgresql://h/d?x=1&pool_max_conns=3":    true,
		"host=h user=u pool_max_conns=3":           true,
		"pool_max_conns = 3 host=h":                true,
		"postgres://u:p@h/d?pool_max_conn_idle=1s": false,
		"host=h user=pool_max_conns":               false,
		"":                                         false,
	} {
		config, err := database.Parse(dsn)
		if err != nil {
			t.Fatal(err)
		}
		if got := database.Said(config, "pool_max_conns"); got != want {
			t.Errorf("%s: %v, want %v", dsn, got, want)
		}
		for name := range config.ConnConfig.RuntimeParams {
			if name == "pool_max_conns" {
				t.Errorf("%s: the server is told of %s", dsn, name)
			}
		}
	}
}

func TestFatal(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		err  pgconn.PgError
		want bool
	}{
		{pgconn.PgError{Severity: "ERROR", SeverityUnlocalized: "ERROR"}, false},
		{pgconn.PgError{Severity: "ВАЖНО", SeverityUnlocalized: "FATAL"}, true},
		{pgconn.PgError{Severity: "PANIK", SeverityUnlocalized: "PANIC"}, true},
		{pgconn.PgError{Severity: "FATAL"}, true},
	} {
		if got := database.Fatal(&tt.err); got != tt.want {
			t.Errorf("%+v: %v", tt.err, got)
		}
	}
}

func TestCollationChanged(t *testing.T) {
	t.Parallel()
	dsn := pgtest.NewDSN(t)
	if c, err := database.ReadCollation(t.Context(), connect(t, parse(t, dsn))); err != nil || c.Changed() {
		t.Errorf("%+v, %v: the C locale has no version that could change", c, err)
	}
	name := parse(t, dsn).ConnConfig.Database + "_icu"
	exec(t, dsn, `CREATE DATABASE `+name+` LOCALE_PROVIDER icu ICU_LOCALE 'en' TEMPLATE template0`)
	config := parse(t, dsn)
	config.ConnConfig.Database = name
	conn, err := pgx.ConnectConfig(t.Context(), config.ConnConfig)
	if err != nil {
		t.Fatal(err)
	}
	for _, made := range []string{"", "1.2.3"} {
		if made != "" {
			exec(t, dsn, `UPDATE pg_database SET datcollversion = '`+made+`' WHERE datname = '`+name+`'`)
		}
		c, err := database.ReadCollation(t.Context(), conn)
		if err != nil || c.Changed() != (made != "") || made != "" && c.Made != made {
			t.Errorf("%+v, %v", c, err)
		}
	}
	if err := conn.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	exec(t, dsn, `DROP DATABASE `+name)
}

// TestConnectWithoutTables: without tables, as before the first migration, a connection is good all the same.
func TestConnectWithoutTables(t *testing.T) {
	config, err := pgxpool.ParseConfig(pgtest.NewDSN(t))
	if err != nil {
		t.Fatal(err)
	}
	database.ForLoops(config)
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	if err := pool.Ping(t.Context()); err != nil {
		t.Error(err)
	}
}
