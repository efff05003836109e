package main

import (
	"context"
	"fmt"
	"log/slog"
	"net/url"
	"strings"
	"testing"
	"time"

	"flexworker/internal/testing/expect"
	"flexworker/internal/testing/flextest"
)

// TestSessionKeepsItsWord: what a role has for other programs does not reach our
// sessions where a promise rests on it; what DATABASE_URL says does, but for the isolation.
func TestSessionKeepsItsWord(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	role := "hasty_" + strings.ReplaceAll(r.pool.Config().ConnConfig.Database, "-", "_") + "_" + strings.ToLower(t.Name())
	for _, sql := range []string{`CREATE ROLE ` + role + ` SUPERUSER LOGIN`,
		`ALTER ROLE ` + role + ` SET synchronous_commit = off`, `ALTER ROLE ` + role + ` SET default_transaction_isolation = 'repeatable read'`} {
		if _, err := r.pool.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		if _, err := r.pool.Exec(context.Background(), `DROP ROLE `+role); err != nil {
			t.Error(err)
		}
	})
	address, err := url.Parse(r.dsn)
	if err != nil {
		t.Fatal(err)
	}
	address.User = url.User(role)
	for _, tt := range []struct{ say, want string }{
		{"", "on, read committed"},
		{"synchronous_commit=remote_apply", "remote_apply, read committed"},
		{"default_transaction_isolation=serializable", "on, read committed"},
		{"options=-c%20default_transaction_isolation%3Dserializable", "on, read committed"},
	} {
		pool, err := openPool(t.Context(), secretOf(address.String()+"&"+tt.say), 1, statementTimeout, forWorking)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(pool.Close)
		var has string
		if err := pool.QueryRow(t.Context(), `SELECT current_setting('synchronous_commit') || ', ' || current_setting('transaction_isolation')`).Scan(&has); err != nil || has != tt.want {
			t.Errorf("%s gives %s (%v), want %s", tt.say, has, err, tt.want)
		}
	}
}

// TestFewConnections: with less connections than it would have a worker is slower, and
// costs no request an attempt.
func TestFewConnections(t *testing.T) {
	t.Parallel()
	grants, users := rights(t)
	worker := of(t, users, "worker")
	r, cfg := poorRig(t, grants, worker.publish, worker.subscribe)
	poor, err := url.Parse(cfg.DatabaseURL.Value())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.pool.Exec(t.Context(), `ALTER ROLE `+poor.User.Username()+` CONNECTION LIMIT 2`); err != nil {
		t.Fatal(err)
	}
	in := r.read()
	out := r.startLogged(cfg)
	r.send("p", 0, 300)
	in.balanced(300)
	r.uncounted()
	if !strings.Contains(out.String(), "SQLSTATE 53300") {
		t.Errorf("it never wanted for a connection:\n%s", out)
	}
}

// TestQueryModes: the worker does its work in each mode in which pgx can ask, also where all
// values go as text, and whatever form of text the database has for other programs.
// (ponylang/postgres#145)
func TestQueryModes(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"exec", "simple_protocol", "describe_exec"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			name := r.pool.Config().ConnConfig.Database
			for _, set := range []string{`DateStyle = 'SQL, DMY'`, `IntervalStyle = 'iso_8601'`, `bytea_output = 'escape'`, `extra_float_digits = -15`,
				`TimeZone = 'Asia/Kolkata'`, `array_nulls = off`, `standard_conforming_strings = off`} {
				r.asWriter(`ALTER DATABASE ` + name + ` SET ` + set)
			}
			in := r.read()
			cfg := r.config()
			cfg.FlexRate, cfg.Retention = 200, time.Hour
			cfg.DatabaseURL = secretOf(r.dsn + "&pool_max_conns=6&default_query_exec_mode=" + mode)
			r.flex.Inject(flextest.Rule{Fault: flextest.CreateThenReset, Times: 3})
			r.flex.Inject(flextest.Rule{Fault: flextest.Status(503), Times: 2})
			r.start(cfg)
			r.send("m", 0, 40)
			in.balanced(40)
			r.says(cfg.AdminAddr, "ok", 200)
		})
	}
}

// TestPoolLimits: what the address says of the pool stands, and one parameter of it leaves
// the others as they are.
func TestPoolLimits(t *testing.T) {
	t.Parallel()
	for say, want := range map[string]string{
		"":                          "12 connections, 0 idle, 30m0s, connects within 3s",
		"pool_max_conns=20":         "20 connections, 0 idle, 30m0s, connects within 3s",
		"pool_max_conns=1":          "1 connections, 0 idle, 30m0s, connects within 3s",
		"pool_min_conns=40":         "40 connections, 0 idle, 30m0s, connects within 3s",
		"pool_min_idle_conns=3":     "12 connections, 3 idle, 30m0s, connects within 3s",
		"connect_timeout=9":         "12 connections, 0 idle, 30m0s, connects within 9s",
		"pool_max_conn_lifetime=2m": "12 connections, 0 idle, 2m0s, connects within 3s",
	} {
		pool, err := openPool(t.Context(), secretOf("postgres://127.0.0.1:1/x?"+say), connections, statementTimeout, forWorking)
		if err != nil {
			t.Fatal(err)
		}
		c := pool.Config()
		pool.Close()
		if got := fmt.Sprintf("%d connections, %d idle, %v, connects within %v", c.MaxConns, c.MinIdleConns, c.MaxConnLifetime, c.ConnConfig.ConnectTimeout); got != want {
			t.Errorf("%s: %s, want %s", say, got, want)
		}
	}
}

// TestUnfitDatabase: what a person has to mend ends the start with one clear error.
func TestUnfitDatabase(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	name := r.pool.Config().ConnConfig.Database
	r.asWriter(`CREATE DATABASE ` + name + `_ascii ENCODING 'SQL_ASCII' LOCALE 'C' TEMPLATE template0`)
	t.Cleanup(func() {
		if _, err := r.pool.Exec(context.WithoutCancel(t.Context()), `DROP DATABASE `+name+`_ascii WITH (FORCE)`); err != nil {
			t.Error(err)
		}
	})
	for _, tt := range []struct{ dsn, want string }{
		{strings.Replace(r.dsn, name, name+"_ascii", 1), "the database must have the encoding UTF8, and this one has SQL_ASCII"},
		{r.dsn + "&search_path=worekr", "no schema that search_path names exists"},
	} {
		for _, migrate := range []bool{true, false} {
			cfg := r.config()
			cfg.DatabaseURL, cfg.Migrate = secretOf(tt.dsn), migrate
			ctx, cancel := context.WithTimeout(t.Context(), expect.Patience)
			err := run(ctx, cfg, slog.New(slog.DiscardHandler), nil)
			cancel()
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("MIGRATE=%v: %v, want %s", migrate, err, tt.want)
			}
		}
	}
}

// TestPostgresAwayIsNamed: every command that cannot connect names the setting, and says what is wrong once,
// though pgx tries each server with TLS and without.
func TestPostgresAwayIsNamed(t *testing.T) {
	t.Parallel()
	const one, two = "127.0.0.1:1 (127.0.0.1): dial error", "127.0.0.1:2 (127.0.0.1): dial error"
	env := []string{"FLEXWORKER_TEST_CHILD=1", "DATABASE_URL=postgres://svc@127.0.0.1:1,127.0.0.1:2/base"}
	r := &rig{t: t}
	for _, verb := range []string{"migrate status", "migrate up", "migrate down", "migrate down --yes", "list", "fleet"} {
		status, out, errs := r.try(env, strings.Fields(verb)...)
		if status != exitAway || !strings.HasPrefix(errs, "worker: DATABASE_URL: ") || strings.Count(errs, one) != 1 || strings.Count(errs, two) != 1 {
			t.Errorf("worker %s: status %d\n%s%s", verb, status, out, errs)
		}
	}
}
