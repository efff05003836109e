package outbox

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"flexworker/internal/database"
	"flexworker/internal/flex"
	"flexworker/internal/outbox/attempt"
	"flexworker/internal/outbox/operator"
	"flexworker/internal/outbox/request"
	"flexworker/internal/outbox/results"
	"flexworker/internal/outbox/upkeep"
	"flexworker/internal/rawjson"
	"flexworker/internal/testing/pgtest"
	"flexworker/migrations"
)

var migrated = pgtest.NewTemplate(migrations.Up)

func TestMain(m *testing.M) { os.Exit(pgtest.Run(m)) }

const testLimit = 2 * time.Second // the longest call that leases are made for

// newStore gives a Store named w1 on a schema of the test's own.
func newStore(t testing.TB) *Store {
	t.Helper()
	return NewStore(migrated.NewPool(t, database.ForLoops), "w1", testLimit, "interaction_request")
}

// desk is where people ask and act on the same tables.
// byHand is a person's decision about an attempt of an uncertain request, believed unasked: that the interaction is sid,
// or that there is none, "".
func (s *Store) byHand(ctx context.Context, requestID string, attempt int, sid string) error {
	_, err := s.desk().Resolve(ctx, operator.Act{Why: "a test", Attempt: &attempt}, requestID,
		operator.Decision{Created: sid, Absent: sid == "", Unverified: true})
	return err
}

func (s *Store) desk() *operator.Desk {
	return operator.NewDesk(s.pool, operator.Caller{Name: "ann@desk", Right: operator.MayAct}, nil)
}

// another is a Store of another process on the same tables.
func (s *Store) another(name string) *Store {
	return NewStore(s.pool, name, testLimit, "interaction_request")
}

// with is the same process's Store on sessions that have a setting.
func (s *Store) with(t testing.TB, name, value string) *Store {
	t.Helper()
	config := s.pool.Config()
	config.ConnConfig.RuntimeParams[name] = value
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return NewStore(pool, s.worker, testLimit, "interaction_request")
}

// unhurried is the same process's Store on sessions that wait for a lock for as long as it takes.
func (s *Store) unhurried(t testing.TB) *Store {
	t.Helper()
	return NewStore(pgtest.Unhurried(t, s.pool), s.worker, testLimit, "interaction_request")
}

// event is a good request of the source crm. It has no lookup key, so that an
// uncertain one waits for a person.
func event(id string, sequence uint64, change ...func(*request.Event)) request.Event {
	e := request.Event{
		Message: request.Message{Stream: "REQUESTS", Subject: "interactions.requests.crm", Source: "crm", Sequence: sequence,
			Time: time.Date(2026, 11, 22, 9, 0, 0, 123456789, time.UTC).Add(time.Duration(sequence) * time.Second)},
		RequestID: id,
		Request: fmt.Appendf(nil, `{"request_id":%q,"channel":{"type":"sms","initiated_by":"api",`+
			`"participants":[{"address":"+15550100001","proxy_address":"+15550100002"}]},`+
			`"routing":{"properties":{"workspace_sid":"WS00000000000000000000000000000002",`+
			`"workflow_sid":"WW00000000000000000000000000000003","attributes":{"test_id":%q}}},"metadata":{"n":1.0}}`, id, id),
	}
	for _, f := range change {
		f(&e)
	}
	if e.Raw == nil {
		e.Raw = e.Request
	}
	return e
}

// from makes an event another's: of another source, asked anew.
func from(source string) func(*request.Event) {
	return func(e *request.Event) { e.Source, e.Subject = source, "interactions.requests."+source }
}

// keyed gives an event the lookup key that the consumer would: its task can be found.
func keyed(e *request.Event) { e.LookupKey = flex.LookupKey(e.RequestID) }

// bare leaves an event without a lookup key.
func bare(*request.Event) {}

func faulty(problems ...string) func(*request.Event) {
	return func(e *request.Event) {
		for _, p := range problems {
			e.Faults = append(e.Faults, rawjson.Fault{Path: "channel", Problem: p})
		}
	}
}

// mustAdd stores n new requests named prefix-1 to prefix-n.
func mustAdd(t testing.TB, s *Store, prefix string, n int, change ...func(*request.Event)) []string {
	t.Helper()
	ids, events := make([]string, n), make([]request.Event, n)
	for i := range events {
		ids[i] = fmt.Sprintf("%s-%d", prefix, i+1)
		events[i] = event(ids[i], uint64(i+1), change...)
	}
	answers, err := s.addBatch(t.Context(), events)
	if err != nil {
		t.Fatal(err)
	}
	for i, a := range answers {
		if a != Accepted && a != Rejected {
			t.Fatalf("%s was %v", ids[i], a)
		}
	}
	return ids
}

// mustClaim leases exactly n requests.
func mustClaim(t testing.TB, s *Store, n int) []Lease {
	t.Helper()
	c, err := s.claim(t.Context(), n)
	if err != nil {
		t.Fatal(err)
	}
	if len(c.leases) != n {
		t.Fatalf("claimed %d, want %d (gate %s)", len(c.leases), n, c.gate)
	}
	return c.leases
}

// SetRate sets the fleet's rate, as a person would.
func (s *Store) SetRate(ctx context.Context, rate float64) error {
	return s.desk().Rate(ctx, operator.Act{Why: "test"}, rate)
}

// upkeep is the upkeep of the same process.
func (s *Store) upkeep() *upkeep.Upkeep {
	u := upkeep.New(s.pool, s.leaseFor)
	u.Results, u.Due, u.Uncertain, u.Log = s.Results, s.Due, s.Lookups.Waiting, quiet
	return u
}

// pruner is an upkeep that removes what is older than retention.
func (s *Store) pruner(retention time.Duration) *upkeep.Upkeep {
	u := s.upkeep()
	u.Retention = retention
	return u
}

type (
	Lease  = attempt.Lease
	record = attempt.Record
)

// record stores what became of a lease, trying once. recordAgain follows a try whose answer was lost.
func (s *Store) record(ctx context.Context, r record) (*results.Settled, error) {
	return s.completer.Try(ctx, r, false)
}

func (s *Store) recordAgain(ctx context.Context, r record) (*results.Settled, error) {
	return s.completer.Try(ctx, r, true)
}

// disowned is what becomes of a record whose interaction is that of another request, as Completer.Complete has it.
func disowned(p request.Policy, r record, owner string, random float64) record {
	r.Told, r.Move = p.AfterOthers(r.Lease.Attempt, r.Told, owner, random)
	r.Outcome = r.Told.Kind.String()
	return r
}

// ownerOf is the request whose interaction it is; "": err says of none.
func ownerOf(err error) string {
	if err == nil {
		return ""
	}
	_, owner, _ := strings.Cut(err.Error(), "the interaction is that of request ")
	return owner
}

func (s *Store) lapse(ctx context.Context) (int, error)  { return s.upkeep().Lapse(ctx) }
func (s *Store) expire(ctx context.Context) (int, error) { return s.upkeep().Expire(ctx) }

// prune is a batch from the front.
func (s *Store) prune(ctx context.Context, retention time.Duration) (int, error) {
	n, _, err := s.pruner(retention).PruneFrom(ctx, &upkeep.Cursor{})
	return n, err
}

// running runs a loop until the test ends.
func running(t testing.TB, loop func(context.Context)) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	ended := make(chan struct{})
	go func() { defer close(ended); loop(ctx) }()
	t.Cleanup(func() { cancel(); <-ended })
}

// release records that no call was made, trying once.
func (s *Store) release(ctx context.Context, l Lease) error {
	_, err := s.record(ctx, attempt.Unsent(l))
	return err
}

// A row is a request as the table has it; in the columns that tests ask for.
type row struct {
	ID               int64
	State            request.State
	Attempt          int
	Uncounted        int
	DueIn            *time.Duration // from now
	LeasedBy         *string
	LeasedUntil      *time.Time
	InteractionSID   *string
	TaskSID          *string
	AssignmentStatus *string
	Response         *string
	ResolvedBy       *string
	ErrorKind        *string
	ErrorMessage     *string
	HTTPStatus       *int
	TwilioCode       *int
	TwilioRequestID  *string
	UncertainSince   *time.Time
	Answered         bool
	Faults           *string
	Raw              []byte
	SettledAt        *time.Time
	AnnouncedAt      *time.Time
	PublishedAt      *time.Time
}

func (s *Store) row(t testing.TB, requestID string) row {
	t.Helper()
	rows, err := s.pool.Query(t.Context(), `
		SELECT id, state, attempt, uncounted, due_at - clock_timestamp(), leased_by, leased_until, interaction_sid, task_sid,
		       assignment_status, response::text, resolved_by, error_kind, error_message, http_status, twilio_code,
		       twilio_request_id, uncertain_since, answered, faults::text, raw, settled_at, announced_at, published_at
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

// histories are pgtest.Histories of a request.
func (s *Store) histories(t testing.TB, requestID string) string {
	t.Helper()
	return pgtest.Histories(t, s.pool, requestID)
}

func logger(t testing.TB) *slog.Logger { return slog.New(slog.NewTextHandler(t.Output(), nil)) }

// textLog writes log lines to a text that the test reads when nobody writes any more.
func textLog(to io.Writer) *slog.Logger { return slog.New(slog.NewTextHandler(to, nil)) }

var person = operator.Act{Why: "test"}
