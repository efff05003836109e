package outbox

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"flexworker/internal/flex"
	"flexworker/internal/outbox/attempt"
	"flexworker/internal/outbox/request"
	"flexworker/internal/outbox/results"
	"flexworker/internal/rawjson"
	"flexworker/internal/testing/flextest"
	"flexworker/internal/testing/pgtest"
)

const (
	sidA = "KD0000000000000000000000000000000a"
	sidB = "KD0000000000000000000000000000000b"
)

var good = flex.Outcome{Kind: flex.Created, InteractionSID: sidA, TaskSID: "WT1", AssignmentStatus: "pending", Answered: true, Mine: true,
	Response: json.RawMessage(`{"sid":"` + sidA + `"}`), HTTPStatus: 201, RequestID: "RQ1", Took: 1500 * time.Millisecond}

// told is the record of a lease whose attempt had this outcome.
func told(l Lease, o flex.Outcome) record {
	return attempt.Decide(testPolicy, l, o, 0.5)
}

// TestRecord: what each outcome leaves in the row.
func TestRecord(t *testing.T) {
	t.Parallel()
	failed := func(o flex.Outcome) flex.Outcome {
		o.Message, o.RequestID, o.Took = cmp.Or(o.Message, "why"), "RQ9", time.Second
		return o
	}
	for _, tt := range []struct {
		name      string
		outcome   flex.Outcome
		state     request.State
		uncounted int
		kind      string // error_kind
		settled   bool
	}{
		{"created", good, request.Created, 0, "", true},
		{"rejected", failed(flex.Outcome{Kind: flex.Rejected, HTTPStatus: 400, TwilioCode: 20001, ErrorKind: "http_400"}), request.Rejected, 0, "http_400", true},
		{"refused", failed(flex.Outcome{Kind: flex.Refused, Unreached: true, ErrorKind: "dial"}), request.Pending, 1, "dial", false},
		{"blocked", failed(flex.Outcome{Kind: flex.Blocked, HTTPStatus: 401, TwilioCode: 20003, ErrorKind: "http_401"}), request.Pending, 1, "http_401", false},
		{"uncertain", failed(flex.Outcome{HTTPStatus: 503, ErrorKind: "http_503"}), request.Uncertain, 0, "http_503", false},
		{"uncertain, answered", failed(flex.Outcome{HTTPStatus: 200, Answered: true, ErrorKind: "no_sid", Response: json.RawMessage(`{}`)}), request.Uncertain, 0, "no_sid", false},
		{"nothing known", flex.Outcome{}, request.Uncertain, 0, "unknown", false},
		{"strange texts", failed(flex.Outcome{Kind: flex.Rejected, ErrorKind: "http_400", Message: "nul \x00 bad \xff"}), request.Rejected, 0, "http_400", true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := newStore(t)
			mustAdd(t, s, "r", 1)
			done, err := s.record(t.Context(), told(mustClaim(t, s, 1)[0], tt.outcome))
			if err != nil {
				t.Fatal(err)
			}
			r, o := s.row(t, "r-1"), tt.outcome
			if r.State != tt.state || r.Uncounted != tt.uncounted || r.Attempt != 1 || r.LeasedBy != nil || r.LeasedUntil != nil || (r.SettledAt != nil) != tt.settled {
				t.Errorf("%+v", r)
			}
			if pgtest.Deref(r.ErrorKind) != tt.kind || pgtest.Deref(r.HTTPStatus) != o.HTTPStatus || pgtest.Deref(r.TwilioCode) != o.TwilioCode || pgtest.Deref(r.TwilioRequestID) != o.RequestID ||
				pgtest.Deref(r.ErrorMessage) != strings.NewReplacer("\x00", "\uFFFD", "\xff", "\uFFFD").Replace(o.Message) {
				t.Errorf("%s: %s, http %d, code %d, %s", pgtest.Deref(r.ErrorKind), pgtest.Deref(r.ErrorMessage), pgtest.Deref(r.HTTPStatus), pgtest.Deref(r.TwilioCode), pgtest.Deref(r.TwilioRequestID))
			}
			if pgtest.Deref(r.InteractionSID) != o.InteractionSID || pgtest.Deref(r.TaskSID) != o.TaskSID || pgtest.Deref(r.AssignmentStatus) != o.AssignmentStatus || pgtest.Deref(r.Response) != string(o.Response) {
				t.Errorf("%+v", r)
			}
			if by := pgtest.Deref(r.ResolvedBy); (by == "response") != (tt.state == request.Created || tt.state == request.Rejected) {
				t.Errorf("resolved by %q", by)
			}
			if (r.UncertainSince != nil) != (tt.state == request.Uncertain) || r.Answered != (tt.name == "uncertain, answered") {
				t.Errorf("uncertain since %v, answered %t", r.UncertainSince, r.Answered)
			}
			if tt.state == request.Pending && pgtest.Deref(r.DueIn) <= 0 {
				t.Errorf("due in %v", pgtest.Deref(r.DueIn))
			}
			if tt.settled != (done != nil) {
				t.Errorf("hint %+v", done)
			}
			if h := s.histories(t, "r-1"); h != "1 "+o.Kind.String() {
				t.Errorf("history %q", h)
			}
			if took := pgtest.One[*time.Duration](t, s.pool, `SELECT took FROM outbox_attempts`); pgtest.Deref(took) != o.Took {
				t.Errorf("took %v", took)
			}
			pgtest.CheckOutbox(t, s.pool)
		})
	}
}

// TestRecordFenced: what others decided meanwhile stands; what came too late is
// told in the history only. A lease that merely lapsed is still its attempt's.
func TestRecordFenced(t *testing.T) {
	t.Parallel()
	rejected := flex.Outcome{Kind: flex.Rejected, ErrorKind: "http_400"}
	lapse := func(t *testing.T, s *Store) {
		t.Helper()
		pgtest.Exec(t, s.pool, `UPDATE outbox SET leased_until = clock_timestamp() - interval '1 s' WHERE state = 'sending'`)
		if n, err := s.another("w2").lapse(t.Context()); n != 1 || err != nil {
			t.Fatal(n, err)
		}
	}
	again := func(t *testing.T, s *Store) Lease { // as if a lookup had proved it absent
		t.Helper()
		lapse(t, s)
		pgtest.Exec(t, s.pool, `UPDATE outbox SET state = 'pending', due_at = clock_timestamp() - interval '1 s'`)
		return mustClaim(t, s.another("w2"), 1)[0]
	}
	for _, tt := range []struct {
		name      string
		meanwhile func(*testing.T, *Store, Lease)
		err       error
		state     request.State
		history   string
	}{
		{"nothing", func(*testing.T, *Store, Lease) {}, nil, request.Created, "1 created"},
		{"it lapsed", func(t *testing.T, s *Store, _ Lease) { lapse(t, s) }, nil, request.Created, "1 lapsed, 1 created"},
		{"past the lease, not yet lapsed", func(t *testing.T, s *Store, _ Lease) {
			pgtest.Exec(t, s.pool, `UPDATE outbox SET leased_until = clock_timestamp() - interval '1 h'`)
		}, nil, request.Created, "1 created"},
		{"it lapsed and was leased again", func(t *testing.T, s *Store, _ Lease) { again(t, s) }, attempt.ErrLeaseLost, request.Sending, "1 lapsed, 1 created!"},
		{"it was leased again and rejected", func(t *testing.T, s *Store, _ Lease) {
			if _, err := s.another("w2").record(t.Context(), told(again(t, s), rejected)); err != nil {
				t.Fatal(err)
			}
		}, attempt.ErrLeaseLost, request.Rejected, "1 lapsed, 2 rejected, 1 created!"},
		{"it was released", func(t *testing.T, s *Store, l Lease) {
			if err := s.release(t.Context(), l); err != nil {
				t.Fatal(err)
			}
		}, nil, request.Created, "1 released, 1 created"}, // it cannot be; were it so, it would count
		{"an operator said it is absent", func(t *testing.T, s *Store, _ Lease) {
			pgtest.Exec(t, s.pool, `UPDATE outbox SET leased_until = now() - interval '1 second'`)
			if _, err := s.lapse(t.Context()); err != nil {
				t.Fatal(err)
			}
			if err := s.byHand(t.Context(), "f-1", 1, ""); err != nil {
				t.Fatal(err)
			}
		}, nil, request.Created, "1 lapsed, 1 created"},
		{"it was recorded", func(t *testing.T, s *Store, l Lease) {
			if _, err := s.record(t.Context(), told(l, rejected)); err != nil {
				t.Fatal(err)
			}
		}, attempt.ErrLeaseLost, request.Rejected, "1 rejected, 1 created!"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := newStore(t)
			mustAdd(t, s, "f", 1)
			l := mustClaim(t, s, 1)[0]
			tt.meanwhile(t, s, l)
			done, err := s.record(t.Context(), told(l, good))
			if !errors.Is(err, tt.err) || (done != nil) != (tt.err == nil) {
				t.Errorf("%v, hint %v, want %v", err, done, tt.err)
			}
			if errors.Is(err, attempt.ErrLeaseLost) {
				if sid := pgtest.One[string](t, s.pool, `SELECT error FROM outbox_attempts WHERE NOT applied`); sid != sidA {
					t.Errorf("the history does not name what was created too late: %q", sid)
				}
			}
			if r := s.row(t, "f-1"); r.State != tt.state || (r.State == request.Created) != (pgtest.Deref(r.InteractionSID) == sidA) {
				t.Errorf("%s, want %s", r.State, tt.state)
			}
			if h := s.histories(t, "f-1"); h != tt.history {
				t.Errorf("history %q, want %q", h, tt.history)
			}
		})
	}
}

// TestReleased: nothing was sent, so the attempt is uncounted and due again at once.
func TestReleased(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	mustAdd(t, s, "p", 1)
	l := mustClaim(t, s, 1)[0]
	if err := s.release(t.Context(), l); err != nil {
		t.Fatal(err)
	}
	if r := s.row(t, "p-1"); r.State != request.Pending || r.Uncounted != 1 || r.Attempt != 1 || pgtest.Deref(r.DueIn) > 0 || r.ErrorKind != nil {
		t.Errorf("%+v", r)
	}
	if err := s.release(t.Context(), l); !errors.Is(err, attempt.ErrLeaseLost) {
		t.Errorf("released twice: %v", err)
	}
	if l := mustClaim(t, s, 1)[0]; l.Attempt != 2 || l.Uncounted != 1 {
		t.Errorf("%+v", l)
	}
	if h := s.histories(t, "p-1"); h != "1 released, 1 released!" {
		t.Errorf("history %q", h)
	}
	pgtest.CheckOutbox(t, s.pool)
}

// TestRecordBesideMark: a mark that waits for a row which somebody else holds does
// not keep outcomes from being recorded.
func TestRecordBesideMark(t *testing.T) {
	t.Parallel()
	s := newStore(t).unhurried(t)
	settle(t, s, event("a-1", 1), good)
	id := s.row(t, "a-1").ID
	pid, release := holding(t, s, `SELECT FROM outbox WHERE id = $1 FOR UPDATE`, id)
	marked := make(chan error, 1)
	go func() {
		marked <- s.Results.MarkPublished(t.Context(), []results.Answer{{Kind: results.Final, ID: id, Number: 1}})
	}()
	blockedBy(t, s, pid)
	settle(t, s, event("b-1", 2), good)
	select {
	case err := <-marked:
		t.Errorf("recorded only when the mark was over: %v", err)
	default:
		release()
		if err := <-marked; err != nil {
			t.Error(err)
		}
	}
}

// TestSyncedWrites: what Postgres has said it has of a request, it has after a crash:
// every write of a row waits for the disk but the mark, which can be made again. What
// holds for one transaction does not stay with its connection.
func TestSyncedWrites(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	pgtest.Exec(t, s.pool, `CREATE TABLE seen (id serial, setting text)`)
	pgtest.Exec(t, s.pool, `CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
		INSERT INTO seen (setting) VALUES (CASE WHEN NEW.published_at IS NULL THEN NEW.state ELSE 'published' END || ' ' || current_setting('synchronous_commit'));
		RETURN NULL; END $$`)
	pgtest.Exec(t, s.pool, `CREATE TRIGGER see AFTER INSERT OR UPDATE ON outbox FOR EACH ROW EXECUTE FUNCTION see()`)
	for i, id := range []string{"a-1", "a-2"} {
		settle(t, s, event(id, uint64(i+1)), good)
		if err := s.Results.MarkPublished(t.Context(), []results.Answer{{Kind: results.Final, ID: s.row(t, id).ID, Number: 1}}); err != nil {
			t.Fatal(err)
		}
	}
	const each = "pending on, sending on, created on, published off"
	if got := pgtest.One[string](t, s.pool, `SELECT string_agg(setting, ', ' ORDER BY id) FROM seen`); got != each+", "+each {
		t.Errorf("the writes were: %s", got)
	}
}

// TestAnswerOfAnotherAtOnce: two replicas are told the same interactions at the same moment, one call each or many,
// and none of the answers carries the key of its request. Each interaction becomes that of one request. The other
// request is uncertain, and no outcome is lost.
func TestAnswerOfAnotherAtOnce(t *testing.T) {
	t.Parallel()
	for _, n := range []int{1, 64} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			t.Parallel()
			s := newStore(t)
			mustAdd(t, s, "r", 2*n)
			leases := mustClaim(t, s, 2*n)
			pid, open := s.barrier(t)
			var both sync.WaitGroup
			for i, replica := range []*Dispatcher{newDeliverer(t, s, flextest.New(t)), newDeliverer(t, s.another("w2"), flextest.New(t))} {
				for k, l := range leases[i*n : (i+1)*n] {
					if i == 1 {
						k = n - 1 - k // in the other order
					}
					o := good
					o.Mine, o.InteractionSID = false, fmt.Sprintf("KD%032x", k)
					both.Go(func() { replica.record(context.WithoutCancel(t.Context()), told(l, o)) })
				}
			}
			s.waiting(t, pid, 2)
			open()
			both.Wait()
			if got := pgtest.One[string](t, s.pool, `
				SELECT string_agg(n || ' ' || state || coalesce(' ' || error_kind, ''), ', ' ORDER BY state)
				  FROM (SELECT state, error_kind, count(*) AS n FROM outbox GROUP BY 1, 2) AS o`); got != fmt.Sprintf("%d created, %[1]d uncertain other_request", n) {
				t.Error(got)
			}
			if sids := pgtest.One[int](t, s.pool, `SELECT count(DISTINCT interaction_sid) FROM outbox`); sids != n {
				t.Errorf("%d interactions of %d belong to a request", sids, n)
			}
			pgtest.CheckOutbox(t, s.pool)
		})
	}
}

// TestRecordedIsTheRow: the result that record composes from what it knows is
// the one that the Publisher would read from the table.
func TestRecordedIsTheRow(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	for i, o := range outcomesThatSettle() {
		id := mustAdd(t, s, string(rune('a'+i)), 1, func(e *request.Event) {
			e.Traceparent, e.Tracestate, e.Sequence, e.Warnings = "00-1-2-3", "v=1", uint64(i+1), []rawjson.Fault{{Path: "channel.x", Problem: "odd"}}
		})[0]
		l := mustClaim(t, s, 1)[0]
		done, err := s.record(t.Context(), record{Lease: l, Outcome: o.Kind.String(), Told: o, Move: request.Policy{}.After(1, o, 0)})
		if err != nil || done == nil {
			t.Fatalf("%s: %v, %v", id, done, err)
		}
		rows, err := s.pool.Query(t.Context(), `SELECT `+results.SettledColumns+` FROM outbox o WHERE request_id = $1`, id)
		if err != nil {
			t.Fatal(err)
		}
		read, err := pgx.CollectExactlyOneRow(rows, results.ScanSettled)
		if err != nil {
			t.Fatal(err)
		}
		if got, want := asJSON(t, done.Answer()), asJSON(t, read.Answer()); got != want {
			t.Errorf("%s\n    composed %s\n    read     %s", id, got, want)
		}
	}
}

func outcomesThatSettle() []flex.Outcome {
	return []flex.Outcome{
		{Kind: flex.Created, HTTPStatus: 201, InteractionSID: "KD" + strings.Repeat("0", 32), TaskSID: "WT" + strings.Repeat("1", 32),
			AssignmentStatus: "pending", RequestID: "RQ1", Response: []byte(`{ "sid":"KD00000000000000000000000000000000", "channel":{"sid":"UO1"},"routing":{"properties":{"priority":1.50}}}`)},
		{Kind: flex.Created, HTTPStatus: 200, InteractionSID: "KD" + strings.Repeat("2", 32)},
		{Kind: flex.Rejected, HTTPStatus: 400, TwilioCode: 20001, ErrorKind: "http_400", Message: "no such parameter", RequestID: "RQ2",
			Response: []byte(`{"code":20001,"more_info":"https://www.twilio.com/docs/errors/20001"}`)},
		{Kind: flex.Rejected, ErrorKind: "request", Message: "a \x00 and bad UTF-8 \xff"},
	}
}

// asJSON is an answer as it would be published.
func asJSON(t *testing.T, a results.Answer) string {
	t.Helper()
	body, err := results.Encode(a.Body)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%d %d %d %s %s %s %s %s %s", a.Kind, a.ID, a.Number, a.Outcome, a.Source, a.MessageID, pgtest.Deref(a.Traceparent), pgtest.Deref(a.Tracestate), body)
}
