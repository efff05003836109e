package outbox

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"flexworker/internal/flex"
	"flexworker/internal/outbox/lookup"
	"flexworker/internal/outbox/operator"
	"flexworker/internal/outbox/request"
	"flexworker/internal/testing/pgtest"
)

// searched is a TaskRouter that notes which keys were asked for.
type searched struct {
	logReader
	keys *[]string
}

func (f searched) SearchTasks(_ context.Context, _, _ string, keys []string) ([]flex.Task, error) {
	*f.keys = append(*f.keys, keys...)
	return nil, nil
}

// TestUnreadableRequest: a request that somebody has written by hand, and that Postgres takes and
// cannot read, is not looked up. All others are. (celerp/celerp#189)
func TestUnreadableRequest(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		`{"metadata": "\u0000", "routing": {"properties": {"workspace_sid": "WS1"}}}`,
		`{"routing": {"properties": {"workspace_sid": "\ud800"}}}`,
		`{"routing": {"properties": {"workspace_sid": "\u0000"}}}`,
	} {
		t.Run(text, func(t *testing.T) {
			t.Parallel()
			s := newStore(t)
			n := 0
			mustAdd(t, s, "u", 5, func(e *request.Event) { n++; e.LookupKey = fmt.Sprintf("%032x", n) })
			for _, l := range mustClaim(t, s, 5) {
				if _, err := s.record(t.Context(), told(l, flex.Outcome{ErrorKind: "timeout"})); err != nil {
					t.Fatal(err)
				}
			}
			pgtest.Exec(t, s.pool, `UPDATE outbox SET due_at = now() - interval '1 s'`)
			pgtest.Exec(t, s.pool, `UPDATE outbox SET request = $1::text::json WHERE request_id = 'u-3'`, text)
			if said := (*pgconn.PgError)(nil); !errors.As(s.pool.QueryRow(t.Context(), `SELECT max(`+lookup.WorkspaceOf+`) FROM outbox`).Scan(new(string)), &said) {
				t.Fatal("Postgres can read it: this shows nothing")
			}
			var keys []string
			r := &lookup.Resolver{Requests: s.Lookups, Results: s.Results, Due: s.Due, Flex: searched{keys: &keys}, Policy: testPolicy, Log: logger(t), Counters: &lookup.Counters{}}
			for range 4 {
				pgtest.Exec(t, s.pool, `UPDATE outbox_gate SET lookup_at = '-infinity'`)
				if _, err := r.Round(t.Context()); err != nil {
					t.Fatal(err)
				}
				r.Ended.Wait()
			}
			slices.Sort(keys)
			for i := 1; i <= 5; i++ {
				if got := slices.Contains(keys, fmt.Sprintf("%032x", i)); got != (i != 3) {
					t.Errorf("u-%d was looked up: %v", i, got)
				}
			}
			// Nor does it keep an act from the others.
			pgtest.Exec(t, s.pool, `UPDATE outbox SET state = 'rejected', due_at = NULL, settled_at = now(), for_person_since = NULL WHERE request_id = 'u-5'`)
			pgtest.Exec(t, s.pool, `UPDATE outbox SET request = $1::text::json WHERE request_id = 'u-5'`, text)
			if done, err := s.desk().Do(t.Context(), operator.ToRetry(false), ann, operator.Filter{State: request.Rejected}); err != nil || done.N != 1 {
				t.Errorf("%d are tried again, %v", done.N, err)
			}
			if r := s.row(t, "u-3"); r.State != request.Uncertain || pgtest.Deref(r.ErrorKind) != "undecided" {
				t.Errorf("it is %s, %s: no person is asked", r.State, pgtest.Deref(r.ErrorKind))
			}
		})
	}
}
