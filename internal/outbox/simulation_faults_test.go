package outbox

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"flexworker/internal/flex"
	"flexworker/internal/outbox/lookup"
	"flexworker/internal/outbox/request"
)

// Rows of docs/faults.md that no other test makes.

// twice is a TaskRouter that knows two interactions of every key.
type twice struct{}

func (twice) SearchTasks(_ context.Context, _, _ string, keys []string) (tasks []flex.Task, _ error) {
	for _, key := range keys {
		tasks = append(tasks, flex.Task{Key: key, TaskSID: "WT2", InteractionSID: "KD2", DateCreated: simStart.Add(time.Second)},
			flex.Task{Key: key, TaskSID: "WT1", InteractionSID: "KD1", DateCreated: simStart})
	}
	return tasks, nil
}

func (twice) Events(context.Context, string, string, []string, time.Time, time.Time) ([]flex.Task, bool, error) {
	return nil, true, nil
}

func (twice) Fetch(_ context.Context, sid string) flex.Outcome {
	return flex.Outcome{Kind: flex.Created, InteractionSID: sid}
}

// TestOldestOfTwoIsAdopted: somebody on the way repeated the call. The oldest
// interaction is the request's, and the other is named.
func TestOldestOfTwoIsAdopted(t *testing.T) {
	t.Parallel()
	q := lookup.Batch{Workspace: "WS", Asked: []lookup.Input{{LookupKey: "k"}}, Settle: time.Minute}
	findings, err := q.LookUp(t.Context(), twice{})
	if err != nil {
		t.Fatal(err)
	}
	if f := findings[0]; f.Kind != request.Found || f.Outcome.InteractionSID != "KD1" || f.TaskSID != "WT1" || fmt.Sprint(f.Others) != "[KD2]" {
		t.Errorf("%+v", f)
	}
}

// TestClaimCutByStatementTimeout: somebody has the table; the claim is cut by the
// server, nothing is claimed, and the next one has it all.
func TestClaimCutByStatementTimeout(t *testing.T) {
	t.Parallel()
	direct := newStore(t)
	mustAdd(t, direct, "a", 3)
	config := direct.pool.Config()
	config.ConnConfig.RuntimeParams["statement_timeout"] = "200ms"
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	s := NewStore(pool, "w1", testLimit, "interaction_request")
	tx, err := direct.pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(context.WithoutCancel(t.Context()))
	if _, err := tx.Exec(t.Context(), `LOCK TABLE outbox IN ACCESS EXCLUSIVE MODE`); err != nil { // as ALTER TABLE does
		t.Fatal(err)
	}
	if _, err := s.claim(t.Context(), 3); !Away(err) {
		t.Errorf("the claim says %v", err)
	}
	if _, err := s.lapse(t.Context()); !Away(err) {
		t.Errorf("the sweep says %v", err)
	}
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, l := range mustClaim(t, direct, 3) { // by a worker whose statements no busy machine cuts
		if l.Attempt != 1 {
			t.Errorf("attempt %d", l.Attempt)
		}
	}
}

// TestLimitedForAnHour: Flex answers each create with 429 for an hour, with and without Retry-After. Nothing is abandoned
// and nothing costs an attempt; when the hour is over everything is created but what expired meanwhile.
func TestLimitedForAnHour(t *testing.T) {
	t.Parallel()
	const histories, hour = 300, time.Hour
	refused := 0
	s := &sim{}
	for seed := uint64(1); seed <= histories; seed++ {
		s.begin(seed)
		s.policy.MaxAttempts = 1            // one that counts too many would abandon
		s.healing, s.healedAt = true, s.now // nothing else fails
		until := s.now + hour
		s.flex.limited = until
		if s.settle(20_000); s.failure != "" {
			t.Fatalf("seed %d: %s", seed, s.failure)
		}
		for i := range s.rows {
			r := &s.rows[i]
			switch {
			case r.state == request.Created && (r.attempt-r.uncounted != 1 || r.settledAt < until):
				t.Errorf("seed %d: request %d was created at %v, with %d counted attempts", seed, r.id, r.settledAt-until, r.attempt-r.uncounted)
			case r.state != request.Created && r.state != request.Expired && r.state != request.Rejected:
				t.Errorf("seed %d: request %d is %s", seed, r.id, r.state)
			}
		}
		refused += s.flex.refused
	}
	if refused < histories*20 {
		t.Errorf("only %d calls met the limit", refused)
	}
	t.Logf("%d histories of an hour: %d calls were refused", histories, refused)
}
