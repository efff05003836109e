package outbox

import (
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/pgxpool"

	"flexworker/internal/database"
	"flexworker/internal/outbox/request"
)

// TestTexts: Postgres and pgx read out of our form of an array what was put in, and
// pgx's own form says the same.
func TestTexts(t *testing.T) {
	t.Parallel()
	pool := newStore(t).pool
	plain, long := []string{"", "a", "\"{},\\ NULL", "é\n", strings.Repeat("x", 300_000)}, "b"
	nullable := []*string{nil, &plain[0], &plain[2], &long, nil}
	same := func(a, b *string) bool { return a == nil && b == nil || a != nil && b != nil && *a == *b }
	for name, in := range map[string][]*string{"nil": nil, "empty": {}, "one null": {nil}, "some": nullable} {
		var got []*string
		var length *int
		if err := pool.QueryRow(t.Context(), `SELECT $1::text[], cardinality($1::text[])`, in).Scan(&got, &length); err != nil {
			t.Fatal(name, err)
		}
		if !slices.EqualFunc(got, in, same) || (got == nil) != (in == nil) || (length == nil) != (in == nil) || length != nil && *length != len(in) {
			t.Errorf("%s: %v became %v", name, in, got)
		}
	}
	for name, in := range map[string][]string{"nil": nil, "empty": {}, "some": plain} {
		var got []string
		if err := pool.QueryRow(t.Context(), `SELECT $1::text[]`, in).Scan(&got); err != nil {
			t.Fatal(name, err)
		}
		if !slices.Equal(got, in) || (got == nil) != (in == nil) {
			t.Errorf("%s: %d became %d", name, len(in), len(got))
		}
	}
	ours := pgtype.NewMap()
	database.RegisterTexts(ours)
	theirs := pgtype.NewMap()
	for _, in := range []any{nullable, []*string{}, []string{}, plain} {
		a, err := ours.Encode(pgtype.TextArrayOID, pgtype.BinaryFormatCode, in, []byte("before"))
		if err != nil {
			t.Fatal(err)
		}
		b, err := theirs.Encode(pgtype.TextArrayOID, pgtype.BinaryFormatCode, in, []byte("before"))
		if err != nil || !slices.Equal(a, b) {
			t.Errorf("%v: %q, pgx has %q, %v", in, a, b, err)
		}
	}
}

// TestExecMode: pgx's modes for an old pgbouncer, in which a parameter's type is the
// one of the Go value, write the same.
func TestExecMode(t *testing.T) {
	t.Parallel()
	for _, mode := range []pgx.QueryExecMode{pgx.QueryExecModeExec, pgx.QueryExecModeSimpleProtocol, pgx.QueryExecModeCacheDescribe} {
		t.Run(mode.String(), func(t *testing.T) {
			t.Parallel()
			s := newStore(t)
			config := s.pool.Config()
			config.ConnConfig.DefaultQueryExecMode = mode
			pool, err := pgxpool.NewWithConfig(t.Context(), config)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(pool.Close)
			settle(t, NewStore(pool, "w2", testLimit, "interaction_request"), event("a-1", 1), good)
			if r := s.row(t, "a-1"); r.State != request.Created || r.Response == nil || *r.Response != string(good.Response) {
				t.Errorf("%+v", r)
			}
		})
	}
}
