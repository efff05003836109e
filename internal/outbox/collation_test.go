package outbox

import (
	"context"
	"fmt"
	"net/url"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"flexworker/internal/database"
	"flexworker/internal/outbox/request"
	"flexworker/internal/testing/pgtest"
	"flexworker/migrations"
)

// TestIndexesOwnTheirOrder: no index of ours has an order that an upgrade of the C library or of
// ICU could change. (matrix-org/synapse#6696)
func TestIndexesOwnTheirOrder(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	rows, err := s.pool.Query(t.Context(), `
		SELECT DISTINCT i.indexrelid::regclass || ': ' || c.collname
		  FROM pg_index i CROSS JOIN unnest(i.indcollation) AS column_collation (oid) JOIN pg_collation c ON c.oid = column_collation.oid
		 WHERE i.indrelid IN (SELECT oid FROM pg_class WHERE relnamespace = current_schema()::regnamespace) AND c.collname NOT IN ('C', 'POSIX')`)
	if err != nil {
		t.Fatal(err)
	}
	found, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	if len(found) > 0 {
		t.Errorf("their column needs COLLATE \"C\": %s", strings.Join(found, ", "))
	}
}

// TestCollationChanges: the database sorts text by ICU, and under it the rules of ICU change, as by
// another image or an upgrade. Each request that is known is still known.
func TestCollationChanges(t *testing.T) {
	t.Parallel()
	dsn := pgtest.NewDSN(t)
	admin, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = admin.Close(context.WithoutCancel(t.Context())) })
	name := admin.Config().Database + "_icu"
	do := func(sql string) {
		t.Helper()
		if _, err := admin.Exec(context.WithoutCancel(t.Context()), sql); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
	do(`CREATE DATABASE ` + name + ` LOCALE_PROVIDER icu ICU_LOCALE 'en' TEMPLATE template0`)
	t.Cleanup(func() { do(`DROP DATABASE ` + name + ` WITH (FORCE)`) })
	address, err := url.Parse(dsn)
	if err != nil {
		t.Fatal(err)
	}
	address.Path = name
	if _, err := migrations.Up(t.Context(), address.String()); err != nil {
		t.Fatal(err)
	}
	store := func() *Store {
		config, err := pgxpool.ParseConfig(address.String())
		if err != nil {
			t.Fatal(err)
		}
		database.ForLoops(config)
		pool, err := pgxpool.NewWithConfig(t.Context(), config)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(pool.Close)
		return NewStore(pool, "w1", testLimit, "interaction_request")
	}
	// Ids that the two languages sort differently: capitals, accents, punctuation.
	var events []request.Event
	for i := range 600 {
		for n, form := range []string{"%d-a", "%d_a", "%d A", "Z%d", "z%d", "ä%d", "å%d", "aa%d"} {
			if i%8 == n {
				events = append(events, event(fmt.Sprintf(form, i), uint64(i+1)))
			}
		}
	}
	add := func(s *Store, want Added) {
		t.Helper()
		for from := 0; from < len(events); from += 100 {
			answers, err := s.addBatch(t.Context(), events[from:from+100])
			if err != nil {
				t.Fatal(err)
			}
			for i, a := range answers {
				if a != want {
					t.Fatalf("%s is %v, want %v", events[from+i].RequestID, a, want)
				}
			}
		}
	}
	s := store()
	add(s, Accepted)
	s.pool.Close()
	// What no command does: the rules change, and nobody has said so to Postgres.
	column := "daticulocale"
	if pgtest.One[int](t, store().pool, `SELECT current_setting('server_version_num')::integer`) >= 170000 {
		column = "datlocale"
	}
	do(`UPDATE pg_database SET ` + column + ` = 'da-u-kf-upper-ka-shifted' WHERE datname = '` + name + `'`)
	s = store() // of new sessions, which read the locale
	if changed := pgtest.One[bool](t, s.pool, `SELECT 'Z' < 'z' AND 'aa' > 'z'`); !changed {
		t.Fatal("the database sorts as before: this shows nothing")
	}
	for i := range events { // by other messages, so that they are repeats
		events[i].Sequence += 1000
	}
	add(s, Repeated)
	if n := pgtest.One[int](t, s.pool, `SELECT count(*) FROM outbox`); n != len(events) {
		t.Errorf("%d requests, want %d", n, len(events))
	}
}
