package main

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"flexworker/internal/testing/natstest"
	"flexworker/internal/testing/pgtest"
)

// rotate writes a file as tools that keep secrets do: beside it, then over it.
func rotate(t *testing.T, file, text string) {
	t.Helper()
	if err := os.WriteFile(file+".new", []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(file+".new", file); err != nil {
		t.Fatal(err)
	}
}

// TestNATSCredentialsRotated: under load the credentials of the worker are rotated in their file before they are revoked,
// and later revoked before they are rotated. The first costs a reconnect; in the second the worker is not ready, and goes on
// by itself with the new file. Nothing is lost or doubled.
func TestNATSCredentialsRotated(t *testing.T) {
	t.Parallel()
	r := rigWith(t, migrated.NewDSN(t), natstest.Options{Credentials: true})
	r.redeliversSoon()
	in := r.read()
	file := filepath.Join(t.TempDir(), "worker.creds")
	used := r.nats.NewCredentials(t)
	rotate(t, file, string(used.File))
	cfg := r.unhurried()
	cfg.NATSCredsFile = file
	r.start(cfg)
	r.says(cfg.AdminAddr, "ok", 200)
	sending := r.load()
	in.goesOn()

	next := r.nats.NewCredentials(t)
	rotate(t, file, string(next.File))
	r.nats.Revoke(t, used)
	in.goesOn()

	r.nats.Revoke(t, next)
	r.says(cfg.AdminAddr, "nats", 503)
	rotate(t, file, string(r.nats.NewCredentials(t).File))
	r.says(cfg.AdminAddr, "ok", 200)
	in.goesOn()
	in.balanced(sending.stop())
	r.uncounted()
}

// TestDatabasePasswordRotated: the same with the password in DATABASE_URL_FILE. A session that is there outlives a new
// password; all are ended here, so that none is left of the old one.
func TestDatabasePasswordRotated(t *testing.T) {
	t.Parallel()
	server := pgtest.NewServer(t)
	r := rigOn(t, server.DSN("postgres"))
	in := r.read()
	r.must(`CREATE ROLE worker LOGIN SUPERUSER PASSWORD 'the-first'`)
	r.must(fmt.Sprintf(`COPY (VALUES ('host all worker 127.0.0.1/32 scram-sha-256'), ('host all all 127.0.0.1/32 trust')) TO '%s'`,
		pgtest.One[string](t, r.pool, `SHOW hba_file`)))
	r.must(`SELECT pg_reload_conf()`)
	file := filepath.Join(t.TempDir(), "url")
	write := func(password string) {
		t.Helper()
		rotate(t, file, fmt.Sprintf("postgres://worker:%s@%s/postgres?sslmode=disable", password, server.Addr()))
	}
	write("the-first")
	cfg := r.unhurried()
	cfg.DatabaseURL = Secret{&secret{file: file}}
	r.start(cfg)
	r.says(cfg.AdminAddr, "ok", 200)
	sending := r.load()
	change := func(password string) {
		t.Helper()
		r.must(`ALTER ROLE worker PASSWORD '` + password + `'`)
		r.must(`SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'worker'`)
	}
	in.goesOn()

	write("the-second")
	change("the-second")
	in.goesOn()

	change("the-third")
	r.says(cfg.AdminAddr, "database", 503)
	write("the-third")
	r.says(cfg.AdminAddr, "ok", 200)
	in.goesOn()
	in.balanced(sending.stop())
	r.uncounted()
}
