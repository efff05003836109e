package main

import (
	"context"
	"net/url"
	"strings"
	"testing"

	"flexworker/internal/outbox"
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
		pool, err := openPool(t.Context(), secretOf(address.String()+"&"+tt.say), 1, statementTimeout, outbox.Configure)
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
	grants, publish, subscribe := leastRights(t)
	r, cfg := poorRig(t, grants, publish, subscribe)
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
	r.spared()
	if !strings.Contains(out.String(), "SQLSTATE 53300") {
		t.Errorf("it never wanted for a connection:\n%s", out)
	}
}
