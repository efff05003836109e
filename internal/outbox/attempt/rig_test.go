package attempt

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"flexworker/internal/batch"
	"flexworker/internal/database"
	"flexworker/internal/flex"
	"flexworker/internal/outbox/request"
	"flexworker/internal/outbox/results"
	"flexworker/internal/testing/pgtest"
	"flexworker/migrations"
)

func TestMain(m *testing.M) { os.Exit(pgtest.Run(m)) }

var migrated = pgtest.NewTemplate(migrations.Up)

const (
	sidA = "KD0000000000000000000000000000000a"
	sidB = "KD0000000000000000000000000000000b"
)

var (
	testPolicy = request.Policy{MinDelay: time.Second, MaxDelay: 5 * time.Minute}
	good       = flex.Outcome{Kind: flex.Created, InteractionSID: sidA, TaskSID: "WT1", AssignmentStatus: "pending", Answered: true, Mine: true,
		Response: json.RawMessage(`{"sid":"` + sidA + `"}`), HTTPStatus: 201, RequestID: "RQ1", Took: 1500 * time.Millisecond}
)

func wasCreated(n int) flex.Outcome {
	return flex.Outcome{Kind: flex.Created, InteractionSID: fmt.Sprintf("KD%032x", n), HTTPStatus: 201, Response: []byte(`{}`), Took: time.Second}
}

// told is the record of a lease whose attempt had this outcome.
func told(l Lease, o flex.Outcome) Record { return Decide(testPolicy, l, o, 0.5) }

// A rig is the Completer of the worker w1, on tables of the test's own.
type rig struct {
	c    *Completer
	pool *pgxpool.Pool
	log  *slog.Logger
}

func newRig(t testing.TB) *rig {
	t.Helper()
	pool := migrated.NewPool(t, database.ForLoops)
	return &rig{New(pool, "w1", batch.NewTurn(20*time.Millisecond)), pool, slog.New(slog.NewTextHandler(t.Output(), nil))}
}

// leased stores n requests named prefix-1 to prefix-n, and leases them.
func (s *rig) leased(t testing.TB, prefix string, n int) []Lease {
	t.Helper()
	pgtest.Exec(t, s.pool, `
		INSERT INTO outbox (request_id, source, state, request, due_at, stream, stream_sequence, stream_time)
		SELECT $1 || '-' || n, 'crm', 'pending', '{"channel":{"type":"sms"}}', now() - interval '1 second', 'REQUESTS', n, now() FROM generate_series(1, $2::integer) n`, prefix, n)
	return s.lease(t, n)
}

// lease leases exactly n requests that are due.
func (s *rig) lease(t testing.TB, n int) []Lease {
	t.Helper()
	rows, err := s.pool.Query(t.Context(), `
		UPDATE outbox SET state = 'sending', due_at = NULL, attempt = attempt + 1, attempt_began_at = now(), leased_by = 'w1/1', leased_until = now() + interval '1 hour'
		 WHERE state = 'pending' AND due_at <= now()
		RETURNING id, request_id, source, request, attempt, uncounted, received_at, stream, stream_sequence`)
	if err != nil {
		t.Fatal(err)
	}
	leases, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (l Lease, err error) {
		return l, row.Scan(&l.ID, &l.RequestID, &l.Source, (*[]byte)(&l.Request), &l.Attempt, &l.Uncounted, &l.ReceivedAt, &l.Stream, &l.Sequence)
	})
	if err != nil || len(leases) != n {
		t.Fatalf("leased %d, want %d: %v", len(leases), n, err)
	}
	slices.SortFunc(leases, func(a, b Lease) int { return cmp.Compare(a.ID, b.ID) })
	return leases
}

func (s *rig) record(ctx context.Context, r Record) (*results.Settled, error) {
	return s.c.Try(ctx, r, false)
}

// A row is a request as the table has it, in the columns that tests ask for.
type row struct {
	State        request.State
	Answered     bool
	ErrorKind    *string
	ErrorMessage *string
}

func (s *rig) row(t testing.TB, requestID string) row {
	t.Helper()
	rows, err := s.pool.Query(t.Context(), `SELECT state, answered, error_kind, error_message FROM outbox WHERE request_id = $1`, requestID)
	if err != nil {
		t.Fatal(err)
	}
	r, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByPos[row])
	if err != nil {
		t.Fatalf("%s: %v", requestID, err)
	}
	return r
}

// created is how many requests are created.
func (s *rig) created(t testing.TB) int {
	t.Helper()
	return pgtest.One[int](t, s.pool, `SELECT count(*) FROM outbox WHERE state = 'created'`)
}
