package main

import (
	"context"
	"fmt"
	"net/url"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"flexworker/internal/testing/pgtest"
)

// TestDatabaseReadOnly: a database that takes no writes for a while, as hosted ones do
// when their disk is nearly full, is away meanwhile. No session outlives that which
// can only read. (everruns, go-libs: such sessions were kept, and nothing moved.)
func TestDatabaseReadOnly(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		over func(r *rig, readOnly bool)
	}{
		// Sessions that are there can write, and are ended; new ones can only read, for as long as they live.
		{"of the database", func(r *rig, readOnly bool) {
			name := r.pool.Config().ConnConfig.Database
			r.asWriter(fmt.Sprintf(`ALTER DATABASE %s SET default_transaction_read_only = %v`, name, readOnly))
			if readOnly {
				r.asWriter(`SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()`)
			}
		}},
		// Sessions that are there can only read from one moment to the next.
		{"of the server", func(r *rig, readOnly bool) {
			r.asWriter(fmt.Sprintf(`ALTER SYSTEM SET default_transaction_read_only = %v`, readOnly))
			r.asWriter(`SELECT pg_reload_conf()`)
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := rigOn(t, pgtest.NewServer(t).DSN("postgres"))
			r.survive(outage{word: "database",
				begin: func() error { tt.over(r, true); return nil },
				end:   func() error { tt.over(r, false); return nil }})
			r.uncounted()
		})
	}
}

// asWriter runs a statement on a session that can write, whatever the database says.
func (r *rig) asWriter(sql string) {
	r.t.Helper()
	conn, err := pgx.Connect(r.t.Context(), r.dsn+"&default_transaction_read_only=off")
	if err != nil {
		r.t.Fatal(err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(r.t.Context())) }()
	if _, err := conn.Exec(r.t.Context(), sql); err != nil {
		r.t.Fatal(err)
	}
}

// TestStandbyPromoted: the server ends in the middle of everything and its standby is
// promoted. An address that names both leads to the one that can write, whether it
// asks for that or says nothing. Of a synchronous standby nothing is lost, and
// nothing that was claimed on the one is called again from the other.
func TestStandbyPromoted(t *testing.T) {
	t.Parallel()
	for name, say := range map[string]string{"asked for": "&target_session_attrs=read-write", "unsaid": ""} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			primary := pgtest.NewServer(t)
			standby := pgtest.NewStandby(t, primary)
			r := rigOn(t, bothHosts(t, standby, primary)+say) // the standby first
			r.survive(outage{word: "database", begin: primary.Immediate, end: func() error { return standby.Promote(t.Context()) }})
			r.uncounted()
		})
	}
}

// bothHosts is the address of two servers.
func bothHosts(t *testing.T, one, other *pgtest.Server) string {
	t.Helper()
	address, err := url.Parse(one.DSN("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	address.Host = strings.Join([]string{one.Addr(), other.Addr()}, ",")
	return address.String()
}
