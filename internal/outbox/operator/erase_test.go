package operator_test

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"flexworker/internal/outbox"
	"flexworker/internal/outbox/operator"
	"flexworker/internal/outbox/request"
	"flexworker/internal/testing/pgtest"
)

// holds are the columns of our tables in which a text stands, as text or as bytes, each with the number of its rows.
func holds(t *testing.T, s *rig, text string) map[string]int {
	t.Helper()
	rows, err := s.pool.Query(t.Context(), `SELECT table_name, column_name FROM information_schema.columns JOIN information_schema.tables USING (table_schema, table_name)
		WHERE table_schema = current_schema() AND table_type = 'BASE TABLE' ORDER BY 1, ordinal_position`)
	if err != nil {
		t.Fatal(err)
	}
	columns, err := pgx.CollectRows(rows, pgx.RowToStructByPos[struct{ Table, Name string }])
	if err != nil || len(columns) < 100 {
		t.Fatal(len(columns), err)
	}
	found := map[string]int{}
	for _, c := range columns {
		n := pgtest.One[int](t, s.pool, fmt.Sprintf(`SELECT count(*) FROM %s WHERE position(lower($1::text) IN lower(%s::text)) > 0 OR position(encode(convert_to($1::text, 'UTF8'), 'hex') IN %s::text) > 0`,
			pgx.Identifier{c.Table}.Sanitize(), pgx.Identifier{c.Name}.Sanitize(), pgx.Identifier{c.Name}.Sanitize()), text)
		if n > 0 {
			found[c.Table+"."+c.Name] = n
		}
	}
	return found
}

// about is a request in whose every place that can hold text the text of a person stands, settled and published, with an
// attempt, a repeat, a conflict, an act and an answer of the API.
func about(t *testing.T, s *rig, id, person string, sequence uint64, change ...func(*request.Event)) request.Event {
	t.Helper()
	e := event(id, sequence, change...)
	e.Traceparent, e.Tracestate = person, person
	e.Request = fmt.Appendf(nil, `{"request_id":%q,"channel":{"type":"sms","participants":[{"address":%q}]},"routing":{"properties":{"workspace_sid":"WS00000000000000000000000000000002","attributes":{%q:1}}},"metadata":%q}`,
		id, person, person, person)
	e.Raw = e.Request
	faulty := len(e.Faults) > 0
	if faulty {
		e.Request = nil
	}
	s.add(t, e)
	again, other := e, e
	again.Sequence, again.Time = sequence+1, e.Time.Add(time.Millisecond)
	other.Sequence, other.Time, other.Headers = sequence+2, e.Time.Add(2*time.Millisecond), map[string][]string{person: {person}}
	other.Request, other.Raw = []byte(`{"channel":"`+person+`"}`), []byte(`{"channel":"`+person+`"}`)
	for _, asked := range []struct {
		e    request.Event
		want outbox.Added
	}{{again, outbox.Repeated}, {other, outbox.Conflicting}} {
		if added, err := s.store.Add(t.Context(), asked.e); err != nil || added != asked.want {
			t.Fatal(added, err)
		}
	}
	if !faulty {
		if _, err := s.retry(t.Context(), operator.Act{Why: "call " + person}, operator.Filter{RequestIDs: []string{id}}); err != nil {
			t.Fatal(err)
		}
		uncertainAgain(t, s, id)
		pgtest.Exec(t, s.pool, `INSERT INTO outbox_acts (who, why, act, request_id, was) VALUES ('ann', $2, 'lookup', $1, 'uncertain')`, id, "is it "+person+"?")
		pgtest.Exec(t, s.pool, `UPDATE outbox SET state = 'abandoned', settled_at = clock_timestamp(), due_at = NULL, error_kind = 'http_400', error_message = $2::text, warnings = to_json($2::text),
			faults = NULL, response = json_build_object('message', $2::text, 'sid', $3::text) WHERE request_id = $1`, id, person, sidA)
		pgtest.Exec(t, s.pool, `UPDATE outbox_attempts SET error = $2 WHERE outbox_id = (SELECT id FROM outbox WHERE request_id = $1)`, id, person)
	}
	pgtest.Exec(t, s.pool, `UPDATE outbox SET published_at = clock_timestamp() WHERE request_id = $1`, id)
	pgtest.Exec(t, s.pool, `UPDATE outbox_repeats SET published_at = clock_timestamp()`)
	pgtest.Exec(t, s.pool, `UPDATE outbox_malformed SET published_at = clock_timestamp()`)
	answer := fmt.Appendf(nil, `{"body":{"request_id":%q,"error_message":%q}}`, id, person)
	if _, err := s.desk.Once(t.Context(), "key of "+id, operator.Asked{RequestID: id}, func() ([]byte, bool) { return answer, true }); err != nil {
		t.Fatal(err)
	}
	return e
}

// TestErase: what was told of a person stands in no column of any table afterwards. Another request of another person keeps
// all. What is erased keeps its id, sids, states and times.
func TestErase(t *testing.T) {
	t.Parallel()
	s := newRig(t)
	about(t, s, "r-1", "Ada Lovelace", 10)
	about(t, s, "f-1", "Ada Lovelace", 20, faulty("Ada Lovelace is no channel"))
	about(t, s, "r-10", "Grace Hopper", 30) // an id that begins as another
	for id, person := range map[string]string{"r-1": "Ada Lovelace", "f-1": "Ada Lovelace", "r-10": "Grace Hopper"} {
		pgtest.Exec(t, s.pool, `INSERT INTO outbox_setups (id, created_at, word, error_kind, why, error_message, task_reason, decided_at, published_at)
			SELECT id, now(), 'setup_failed', 'channel_failed', $2, $2, $2, now(), now() FROM outbox WHERE request_id = $1`, id, person)
	}
	planted := slices.Sorted(maps.Keys(holds(t, s, "Ada Lovelace")))
	want := []string{"outbox.error_message", "outbox.faults", "outbox.raw", "outbox.request", "outbox.response", "outbox.traceparent", "outbox.tracestate", "outbox.warnings",
		"outbox_acts.why", "outbox_attempts.error", "outbox_idempotency_keys.answer",
		"outbox_malformed.headers", "outbox_malformed.raw", "outbox_malformed.traceparent", "outbox_malformed.tracestate", "outbox_repeats.traceparent", "outbox_repeats.tracestate", "outbox_setups.error_message", "outbox_setups.task_reason", "outbox_setups.why"}
	if !slices.Equal(planted, want) {
		t.Fatalf("planted in\n%v\nwant\n%v", planted, want)
	}
	others := holds(t, s, "Grace Hopper")
	const kept = `SELECT concat_ws(' ', id, request_id, source, state, attempt, interaction_sid, error_kind, received_at, settled_at, published_at, stream_sequence, revision, request #>> '{routing,properties,workspace_sid}') FROM outbox WHERE request_id = $1`
	before := pgtest.One[string](t, s.pool, kept, "r-1")
	for _, id := range []string{"r-1", "f-1"} {
		e, err := s.desk.Erase(t.Context(), operator.Act{Why: "asked to on 2026-11-29"}, id)
		if err != nil || e.Request.ErasedAt == nil || len(e.Messages) != 3 {
			t.Fatalf("%s: %+v, %v", id, e, err)
		}
		first := map[string]int64{"r-1": 10, "f-1": 20}[id]
		if said := strings.Join(e.Unreached(), "\n"); !strings.Contains(said, fmt.Sprintf("REQUESTS, by their sequences: %d, %d, %d.", first, first+1, first+2)) || !strings.Contains(said, "backups") {
			t.Errorf("it cannot reach: %s", said)
		}
	}
	if left := holds(t, s, "Ada Lovelace"); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
	if now := holds(t, s, "Grace Hopper"); !maps.Equal(now, others) {
		t.Errorf("of another person there was %v, and is %v", others, now)
	}
	if after := pgtest.One[string](t, s.pool, kept, "r-1"); after != before {
		t.Errorf("kept:\n%s\nwas\n%s", after, before)
	}
	const wantActs = "ann@desk asked to on 2026-11-29 erase f-1 rejected; ann@desk asked to on 2026-11-29 erase r-1 abandoned; ann erased lookup r-1 uncertain"
	if got := pgtest.One[string](t, s.pool, `SELECT string_agg(concat_ws(' ', who, why, act, request_id, was), '; ' ORDER BY act, request_id) FROM outbox_acts WHERE act <> 'retry' AND request_id <> 'r-10'`); got != wantActs {
		t.Errorf("acts: %s", got)
	}
	for id, want := range map[string]string{"r-1": "Its content was erased at", "f-1": "It failed the check before Flex"} {
		if got, err := s.desk.Explain(t.Context(), id); err != nil || !strings.Contains(got, want) || strings.Contains(got, "worker retry") || strings.Contains(got, "%!") {
			t.Errorf("%s: %s, %v", id, got, err)
		}
	}
}

// TestEraseOnly: what has not settled, or is not answered yet, is not erased, and nothing is recorded.
func TestEraseOnly(t *testing.T) {
	t.Parallel()
	s := newRig(t)
	everyState(t, s)
	about(t, s, "r-1", "Ada", 20)
	seen, err := s.desk.Show(t.Context(), "r-1")
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, id, but string
		a             operator.Act
		want          error
	}{
		{"unknown", "nobody", ``, aTest, operator.ErrUnknown},
		{"no reason", "r-1", ``, operator.Act{Why: "..."}, operator.ErrNoReason},
		{"pending", "pending", ``, aTest, operator.ErrNotSettled},
		{"sending", "sending", ``, aTest, operator.ErrNotSettled},
		{"uncertain", "uncertain", ``, aTest, operator.ErrNotSettled},
		{"another attempt", "r-1", ``, ofAttempt(7, aTest), operator.ErrOtherAttempt},
		{"another tag", "r-1", ``, operator.Act{Why: "a test", Seen: "1-1-created-0-0"}, operator.ErrStale},
		{"result unpublished", "r-1", `UPDATE outbox SET published_at = NULL`, aTest, operator.ErrUnanswered},
		{"repeat unanswered", "r-1", `UPDATE outbox SET published_at = settled_at; UPDATE outbox_repeats SET published_at = NULL`, aTest, operator.ErrUnanswered},
		{"word unpublished", "r-1", `INSERT INTO outbox_setups (id, created_at, word, decided_at) SELECT id, now(), 'confirmed', now() FROM outbox WHERE request_id = 'r-1'`, aTest, operator.ErrUnanswered},
		{"conflict unanswered", "r-1", `UPDATE outbox_repeats SET published_at = now(); UPDATE outbox_malformed SET published_at = NULL`, aTest, operator.ErrUnanswered},
	} {
		if tt.but != "" {
			for statement := range strings.SplitSeq(tt.but, ";") {
				pgtest.Exec(t, s.pool, statement)
			}
		}
		if _, err := s.desk.Erase(t.Context(), tt.a, tt.id); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
	if n := pgtest.One[int](t, s.pool, `SELECT count(*) FROM outbox_acts WHERE act = 'erase'`) + pgtest.One[int](t, s.pool, `SELECT count(*) FROM outbox WHERE erased_at IS NOT NULL`); n != 0 {
		t.Errorf("%d were erased", n)
	}
	pgtest.Exec(t, s.pool, `UPDATE outbox_malformed SET published_at = now()`)
	pgtest.Exec(t, s.pool, `UPDATE outbox_setups SET word = NULL, decided_at = NULL, due_at = now()`)
	if _, err := s.desk.Erase(t.Context(), operator.Act{Why: "a test", Seen: seen.Tag()}, "r-1"); err != nil {
		t.Error(err)
	}
	if word := pgtest.One[string](t, s.pool, `SELECT word FROM outbox_setups`); word != "unconfirmed" {
		t.Errorf("what waited for a look at its set-up is %s", word)
	}
}

// TestErasedIsNeverSent: no act leads an erased request to Flex, and the schema would refuse one that did.
func TestErasedIsNeverSent(t *testing.T) {
	t.Parallel()
	s := newRig(t)
	about(t, s, "r-1", "Ada", 20)
	if _, err := s.desk.Erase(t.Context(), aTest, "r-1"); err != nil {
		t.Fatal(err)
	}
	only := operator.Filter{RequestIDs: []string{"r-1"}}
	for _, unverified := range []bool{false, true} {
		if ids, err := s.do(t.Context(), operator.ToRetry(unverified), aTest, only); err != nil || len(ids) != 0 {
			t.Errorf("retry took %v, %v", ids, err)
		}
	}
	if got := chosen(t, s, "r-1"); strings.Contains(got, "retry") {
		t.Error(got)
	}
	if _, err := s.pool.Exec(t.Context(), `UPDATE outbox SET state = 'pending', settled_at = NULL, published_at = NULL, due_at = now()`); err == nil || !strings.Contains(err.Error(), "published_and_erased_after_settled") {
		t.Error(err)
	}
	// Its result can be published again, under the message id that it had, with what is left.
	before, err := s.desk.Answer(t.Context(), "r-1")
	if err != nil {
		t.Fatal(err)
	}
	if ids, err := s.republish(t.Context(), aTest, only); err != nil || len(ids) != 1 {
		t.Fatal(ids, err)
	}
	if after, err := s.desk.Answer(t.Context(), "r-1"); err != nil || after.MessageID != before.MessageID || after.Outcome != "abandoned" || strings.Contains(string(after.Body), "Ada") {
		t.Errorf("%+v, %v", after, err)
	}
}

// TestAskedAgainAfterErase: messages that were answered before are known by their place. A new message under the id is a
// conflict that says why, whatever it asks; the audit balances all the same.
func TestAskedAgainAfterErase(t *testing.T) {
	t.Parallel()
	s := newRig(t)
	first := about(t, s, "r-1", "Ada", 20)
	if _, err := s.desk.Erase(t.Context(), aTest, "r-1"); err != nil {
		t.Fatal(err)
	}
	for i, want := range []outbox.Added{outbox.Redelivered, outbox.Redelivered, outbox.Conflicting, outbox.Conflicting} {
		e := first
		e.Sequence += uint64(i)
		e.Time = e.Time.Add(time.Duration(i) * time.Millisecond)
		if added, err := s.store.Add(t.Context(), e); err != nil || added != want {
			t.Errorf("message %d: %v, %v, want %v", e.Sequence, added, err, want)
		}
	}
	if n := pgtest.One[int](t, s.pool, `SELECT count(*) FROM outbox_repeats`); n != 1 {
		t.Errorf("%d repeats", n)
	}
	if got := pgtest.One[string](t, s.pool, `SELECT string_agg(left(error, 96), '; ' ORDER BY id) FROM outbox_malformed`); got != "erased; request_id r-1 belongs to a request whose content was erased, so that nobody can tell whether th" {
		t.Error(got)
	}
	if report, err := s.desk.Audit(t.Context(), nil, nil, "", 0); err != nil || len(report.Offenders) != 0 {
		t.Errorf("%+v, %v", report.Offenders, err)
	}
	// What it carried goes when the request is erased once more, and the reason of the first time stays.
	if left := holds(t, s, "Ada"); len(left) == 0 {
		t.Error("the new message was not kept")
	}
	pgtest.Exec(t, s.pool, `UPDATE outbox_malformed SET published_at = now()`)
	if _, err := s.desk.Erase(t.Context(), operator.Act{Why: "once more"}, "r-1"); err != nil {
		t.Fatal(err)
	}
	if left := holds(t, s, "Ada"); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
	if got := pgtest.One[string](t, s.pool, `SELECT string_agg(why, '; ' ORDER BY id) FROM outbox_acts WHERE act = 'erase'`); got != "a test; once more" {
		t.Error(got)
	}
}
