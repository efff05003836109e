package operator_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"flexworker/internal/database"
	"flexworker/internal/flex"
	"flexworker/internal/outbox"
	"flexworker/internal/outbox/gate"
	"flexworker/internal/outbox/operator"
	"flexworker/internal/outbox/request"
	"flexworker/internal/rawjson"
	"flexworker/internal/testing/pgtest"
	"flexworker/migrations"
)

const (
	sidA = "KD0000000000000000000000000000000a"
	sidB = "KD0000000000000000000000000000000b"
)

// ann is who acts, where a test says nobody else.
var ann = operator.Caller{Name: "ann@desk", Right: operator.MayAct}

var aTest = operator.Act{Why: "a test"}

// asks answers for Flex with what it shows of any interaction.
func asks(seen flex.Outcome) operator.Asks {
	return func() (operator.Flex, time.Duration, error) { return shown{seen: seen}, time.Minute, nil }
}

type shown struct {
	operator.Flex
	seen flex.Outcome
}

func (s shown) Fetch(context.Context, string) flex.Outcome { return s.seen }

// A rig is a desk, and the outbox whose requests it is about. No loop runs: what happened to a request is
// written into its row.
type rig struct {
	desk  *operator.Desk
	store *outbox.Store
	pool  *pgxpool.Pool
}

var migrated = pgtest.NewTemplate(migrations.Up)

func newRig(t testing.TB) *rig {
	t.Helper()
	pool := migrated.NewPool(t, database.ForLoops)
	return &rig{desk: operator.NewDesk(pool, ann, nil), store: outbox.NewStore(pool, "w1", time.Second, "interaction_request"), pool: pool}
}

// event is a good request of the source crm, without a lookup key.
func event(id string, sequence uint64, change ...func(*request.Event)) request.Event {
	e := request.Event{
		Message: request.Message{Stream: "REQUESTS", Subject: "interactions.requests.crm", Source: "crm", Sequence: sequence,
			Time: time.Date(2026, 11, 22, 9, 0, 0, 0, time.UTC).Add(time.Duration(sequence) * time.Second)},
		RequestID: id,
		Request:   fmt.Appendf(nil, `{"request_id":%q,"channel":{"type":"sms"},"routing":{"properties":{"workspace_sid":"WS00000000000000000000000000000002"}}}`, id),
	}
	for _, f := range change {
		f(&e)
	}
	if e.Raw == nil {
		e.Raw = e.Request
	}
	return e
}

// keyed gives an event a lookup key: its task can be found.
func keyed(e *request.Event) { e.LookupKey = flex.LookupKey(e.RequestID) }

func faulty(problem string) func(*request.Event) {
	return func(e *request.Event) { e.Faults = append(e.Faults, rawjson.Fault{Path: "channel", Problem: problem}) }
}

func (s *rig) add(t testing.TB, e request.Event) {
	t.Helper()
	if added, err := s.store.Add(t.Context(), e); err != nil || added != outbox.Accepted && added != outbox.Rejected {
		t.Fatal(e.RequestID, added, err)
	}
}

// mustAdd stores n new requests named prefix-1 to prefix-n, in this order.
func mustAdd(t testing.TB, s *rig, prefix string, n int, change ...func(*request.Event)) []string {
	t.Helper()
	ids := make([]string, n)
	for i := range ids {
		ids[i] = fmt.Sprintf("%s-%d", prefix, i+1)
		s.add(t, event(ids[i], uint64(i+1), change...))
	}
	return ids
}

// uncertainAgain gives a pending request an attempt whose lease has lapsed: that of this id, or the first that is due.
func uncertainAgain(t testing.TB, s *rig, id ...string) {
	t.Helper()
	tag, err := s.pool.Exec(t.Context(), `
		WITH next AS (
			SELECT id FROM outbox WHERE state = 'pending' AND due_at <= now() AND ($1::text[] IS NULL OR request_id = ANY ($1)) ORDER BY id LIMIT 1),
		moved AS (
			UPDATE outbox o SET state = 'uncertain', attempt = attempt + 1, attempt_began_at = now(), uncertain_since = now(),
			       due_at = now() + interval '4 seconds', error_kind = 'lapsed', error_message = 'worker w1 claimed it'
			  FROM next WHERE o.id = next.id RETURNING o.id, o.attempt)
		INSERT INTO outbox_attempts (outbox_id, kind, number, worker, started_at, outcome, error, applied)
		SELECT id, 'attempt', attempt, 'w1', now(), 'lapsed', 'worker w1 claimed it', true FROM moved`, id)
	if err != nil || tag.RowsAffected() != 1 {
		t.Fatal(tag, err)
	}
}

// everyState adds one request for each state, named like it, and one that was
// rejected for its faults. They are stored in the order of their names.
func everyState(t *testing.T, s *rig) {
	t.Helper()
	ids := []string{"faulty"}
	for _, state := range request.States {
		ids = append(ids, string(state))
	}
	slices.Sort(ids)
	for i, id := range ids {
		e := event(id, uint64(i+1))
		if id == "faulty" {
			faulty("is no channel")(&e)
		}
		s.add(t, e)
	}
	settled := `settled_at = clock_timestamp(), published_at = clock_timestamp(), due_at = NULL`
	for state, set := range map[request.State]string{
		request.Sending:   `attempt = 1, due_at = NULL, leased_by = 'w', leased_until = now() + interval '1 hour'`,
		request.Uncertain: `attempt = 1, due_at = NULL, attempt_began_at = now(), uncertain_since = now(), for_person_since = now(), error_kind = 'timeout'`,
		request.Created:   `attempt = 1, interaction_sid = '` + sidA + `', resolved_by = 'response', ` + settled,
		request.Rejected:  `attempt = 1, error_kind = 'http_400', ` + settled,
		request.Abandoned: `attempt = 1, error_kind = 'attempts_used_up', ` + settled,
		request.Expired:   `expires_at = now() - interval '1 hour', error_kind = 'expired', ` + settled,
		request.Cancelled: `expires_at = now() + interval '1 hour', error_kind = 'cancelled', ` + settled,
	} {
		pgtest.Exec(t, s.pool, `UPDATE outbox SET state = $1, `+set+` WHERE request_id = $1`, string(state))
	}
	pgtest.Exec(t, s.pool, `UPDATE outbox SET published_at = clock_timestamp() WHERE request_id = 'faulty'`)
}

// do does a change, and says which requests it took.
func (s *rig) do(ctx context.Context, c operator.Change, a operator.Act, f operator.Filter) ([]string, error) {
	all, err := s.desk.Do(ctx, c, a, f)
	return all.IDs, err
}

func (s *rig) retry(ctx context.Context, a operator.Act, f operator.Filter) ([]string, error) {
	return s.do(ctx, operator.ToRetry(false), a, f)
}

func (s *rig) cancel(ctx context.Context, a operator.Act, f operator.Filter) ([]string, error) {
	return s.do(ctx, operator.ToCancel(), a, f)
}

func (s *rig) republish(ctx context.Context, a operator.Act, f operator.Filter) ([]string, error) {
	return s.do(ctx, operator.ToRepublish(), a, f)
}

// acts are what is recorded of people, in the order of acts and ids.
func acts(t *testing.T, s *rig) string {
	t.Helper()
	return pgtest.One[string](t, s.pool, `SELECT coalesce(string_agg(concat_ws(' ', who, why, act, request_id, was), '; ' ORDER BY act, request_id), '') FROM outbox_acts`)
}

func readGate(t testing.TB, s *rig) gate.Status {
	t.Helper()
	g, err := gate.Read(t.Context(), s.pool)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// A row is a request as the table has it, in the columns that tests ask for.
type row struct {
	State            request.State
	Attempt          int
	Uncounted        int
	DueIn            *time.Duration // from now
	InteractionSID   *string
	TaskSID          *string
	AssignmentStatus *string
	Response         *string
	ResolvedBy       *string
	ErrorKind        *string
	ErrorMessage     *string
	Answered         bool
	SettledAt        *time.Time
	PublishedAt      *time.Time
}

func (s *rig) row(t testing.TB, requestID string) row {
	t.Helper()
	rows, err := s.pool.Query(t.Context(), `
		SELECT state, attempt, uncounted, due_at - clock_timestamp(), interaction_sid, task_sid, assignment_status, response::text,
		       resolved_by, error_kind, error_message, answered, settled_at, published_at
		  FROM outbox WHERE request_id = $1`, requestID)
	if err != nil {
		t.Fatal(err)
	}
	r, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByPos[row])
	if err != nil {
		t.Fatalf("%s: %v", requestID, err)
	}
	return r
}

// ofAttempt is an act that speaks of an attempt.
func ofAttempt(attempt int, a operator.Act) operator.Act {
	a.Attempt = &attempt
	return a
}

// absent is the decision that there is no interaction, and created that it is sid. Both are believed unasked.
var absent = operator.Decision{Absent: true, Unverified: true}

func created(sid string) operator.Decision {
	return operator.Decision{Created: sid, Unverified: true}
}

// resolve carries out a decision about the latest attempt of a request.
func (s *rig) resolve(t testing.TB, id string, decision operator.Decision) error {
	t.Helper()
	_, err := s.desk.Resolve(t.Context(), ofAttempt(s.row(t, id).Attempt, aTest), id, decision)
	return err
}
