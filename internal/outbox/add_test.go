package outbox

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"flexworker/internal/outbox/request"
	"flexworker/internal/rawjson"
	"flexworker/internal/testing/expect"
	"flexworker/internal/testing/pgtest"
)

// TestAddAnswers walks one request through all that can be said to an event.
func TestAddAnswers(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	other := func(e *request.Event) { e.Request = []byte(`{"channel":{"type":"web","initiated_by":"api"}}`) }
	for _, tt := range []struct {
		name  string
		event request.Event
		want  Added
	}{
		{"new", event("a", 1), Accepted},
		{"the same message", event("a", 1), Redelivered},
		{"asked again", event("a", 2), Repeated},
		{"asked again, the same message", event("a", 2), Repeated},
		{"asked by another", event("a", 3, from("web")), Repeated},
		{"another request", event("a", 4, other), Conflicting},
		{"another request, the same message", event("a", 4, other), Conflicting},
		{"with faults", event("b", 5, faulty("no type", "no initiated_by")), Rejected},
		{"with faults, the same message", event("b", 5, faulty("no type", "no initiated_by")), Redelivered},
		{"with faults, asked again", event("b", 6, faulty("no type")), Repeated},
		{"same sequence, other time: a stream made anew", event("a", 1, func(e *request.Event) { e.Time = e.Time.Add(time.Hour) }), Repeated},
		{"same time, below what Postgres keeps", event("a", 1, func(e *request.Event) { e.Time = e.Time.Add(time.Nanosecond) }), Redelivered},
	} {
		if got, err := s.Add(t.Context(), tt.event); err != nil || got != tt.want {
			t.Errorf("%s: %v, %v, want %v", tt.name, got, err, tt.want)
		}
	}
	for what, want := range map[string]int{
		"outbox": 2, "outbox_repeats": 4, "outbox_malformed": 1,
		"outbox WHERE state = 'pending' AND request_id = 'a' AND stream_sequence = 1": 1,
		"outbox_repeats WHERE source = 'web'":                                         1,
		"outbox_malformed WHERE kind = 'conflict' AND request_id = 'a'":               1,
	} {
		if got := pgtest.One[int](t, s.pool, "SELECT count(*) FROM "+what); got != want {
			t.Errorf("%s: %d rows, want %d", what, got, want)
		}
	}
	pgtest.CheckOutbox(t, s.pool)
}

// TestAddRejected: an event with faults is settled at once, with all of them and
// its bytes, whatever these are.
func TestAddRejected(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	for i, raw := range [][]byte{[]byte(`{"channel":"\u0000"}`), {0xff, 0xfe, 0}, {}, []byte("مرحبا 🙂")} {
		id := fmt.Sprintf("r-%d", i)
		e := event(id, uint64(i), faulty("says \x00 or \xff", "is \"second\""))
		e.Request, e.Raw = nil, raw
		if got, err := s.Add(t.Context(), e); err != nil || got != Rejected {
			t.Fatalf("%q: %v, %v", raw, got, err)
		}
		r := s.row(t, id)
		var faults []struct{ Path, Problem string }
		if err := json.Unmarshal([]byte(pgtest.Deref(r.Faults)), &faults); err != nil {
			t.Fatal(err)
		}
		if r.State != request.Rejected || !slices.Equal(r.Raw, raw) || r.SettledAt == nil || r.DueIn != nil || pgtest.Deref(r.ErrorKind) != "invalid" ||
			pgtest.Deref(r.ErrorMessage) != "channel: says \uFFFD or \uFFFD; channel: is \"second\"" {
			t.Errorf("%q: %+v, message %q", raw, r, pgtest.Deref(r.ErrorMessage))
		}
		if len(faults) != 2 || faults[1].Path != "channel" || faults[1].Problem != `is "second"` {
			t.Errorf("%q: faults %s", raw, pgtest.Deref(r.Faults))
		}
		e.Sequence += 100
		if got, err := s.Add(t.Context(), e); err != nil || got != Repeated {
			t.Errorf("%q again: %v, %v", raw, got, err)
		}
		e.Sequence, e.Raw = e.Sequence+100, []byte("something else")
		if got, err := s.Add(t.Context(), e); err != nil || got != Conflicting {
			t.Errorf("%q, other bytes: %v, %v", raw, got, err)
		}
	}
	mustClaim(t, s, 0)
}

// TestSameRequest: what is asked is compared as JSON values: channel, routing and
// the two sids beside them. All else may differ.
func TestSameRequest(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		a, b string
		want bool
	}{
		{`{"channel":{"a":1,"b":[2]}}`, ` { "channel" : { "b" : [ 2 ] , "a" : 1 } } `, true},
		{`{"channel":1}`, `{"channel":1.0}`, true},
		{`{"routing":100}`, `{"routing":1e2}`, true},
		{`{"routing":"\u00e9"}`, `{"\u0072outing":"é"}`, true},
		{`{"request_id":"x","channel":1}`, `{"channel":1}`, true},
		{`{"request_id":"x","channel":1}`, `{"request_id":"y","channel":1}`, true},
		{`{"channel":1}`, `{"channel":1,"priority":0,"metadata":{"try":2},"not_before":"2026-11-22T09:00:00Z","expires_at":"2026-11-23T09:00:00Z"}`, true},
		{`{"channel":1,"priority":3,"metadata":1,"expires_at":"2026-11-23T09:00:00Z"}`, `{"channel":1,"priority":4,"metadata":2,"expires_at":"2026-11-24T09:00:00Z"}`, true},
		{`{"channel":1,"oops":1}`, `{"channel":1}`, true}, // rejected for oops: the answer says so again
		{`{"channel":1}`, `{"channel":1,"routing":null,"interaction_context_sid":null,"webhook_ttid":null}`, true},
		{`{"channel":null}`, `{}`, true},
		{`{"channel":1}`, `{"channel":"1"}`, false},
		{`{"channel":1}`, `{"channel":2}`, false},
		{`{"channel":1}`, `{"channel":1,"routing":{}}`, false},
		{`{"channel":1}`, `{"channel":1,"interaction_context_sid":"HQ1"}`, false},
		{`{"channel":1,"webhook_ttid":"a"}`, `{"channel":1,"webhook_ttid":"b"}`, false},
		{`{"channel":1,"routing":false}`, `{"channel":1}`, false},
		{`{"channel":{"a":null}}`, `{"channel":{}}`, false}, // within, what is null is a value
		{`{"channel":12345678901234567890}`, `{"channel":12345678901234567891}`, false},
		{`{"channel":[1,2]}`, `{"channel":[2,1]}`, false},
		{`{"channel":{"request_id":"x"}}`, `{"channel":{"request_id":"y"}}`, false},
		{`[1]`, `[1.0]`, true},
		{`[1]`, `[2]`, false},
		{`[1]`, `{}`, false},
		{`"channel"`, `null`, false},
	} {
		if got := len(request.Differs(request.Event{Request: []byte(tt.a)}, []byte(tt.b), nil)) == 0; got != tt.want {
			t.Errorf("%s and %s: %t", tt.a, tt.b, got)
		}
		if got := len(request.Differs(request.Event{Request: []byte(tt.b)}, []byte(tt.a), nil)) == 0; got != tt.want {
			t.Errorf("%s and %s: %t", tt.b, tt.a, got)
		}
	}
}

// FuzzSameRequest: whatever is not asked may differ, and nothing else.
func FuzzSameRequest(f *testing.F) {
	f.Add([]byte(`{"type":"sms"}`), []byte(`{"n":1}`), []byte(`7`))
	f.Add([]byte(`[1.0]`), []byte(`[1]`), []byte(`null`))
	f.Fuzz(func(t *testing.T, channel, other, metadata []byte) {
		for _, text := range [][]byte{channel, other, metadata} {
			if len(rawjson.Check(text)) > 0 {
				return
			}
		}
		first := fmt.Appendf(nil, `{"channel":%s}`, channel)
		again := fmt.Appendf(nil, ` {"metadata": %s ,"priority":1, "channel": %s } `, metadata, channel)
		if len(request.Differs(request.Event{Request: again}, first, nil)) > 0 {
			t.Errorf("%s is not %s", again, first)
		}
		changed := fmt.Appendf(nil, `{"channel":%s}`, other)
		if got, want := len(request.Differs(request.Event{Request: changed}, first, nil)) == 0, rawjson.Equal(channel, other); got != want {
			t.Errorf("%s and %s: %t, want %t", first, changed, got, want)
		}
	})
}

// TestAddBatch: of several that ask under one id in one write, the first in the
// stream has it, wherever it stands; a message that is there twice counts once.
func TestAddBatch(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	other := func(e *request.Event) { e.Request = []byte(`{"channel":{}}`) }
	got, err := s.addBatch(t.Context(), []request.Event{
		event("a", 9), event("b", 2), event("a", 5), event("a", 7, other), event("b", 2), event("c", 3, faulty("x")), event("c", 3, faulty("x")),
	})
	want := []Added{Repeated, Accepted, Accepted, Conflicting, Redelivered, Rejected, Redelivered}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("%v, %v, want %v", got, err, want)
	}
	if sequence := pgtest.One[int](t, s.pool, `SELECT stream_sequence FROM outbox WHERE request_id = 'a'`); sequence != 5 {
		t.Errorf("message %d has the id, want 5", sequence)
	}
}

// TestAddUnusualTexts: whatever a sender writes where we keep it as text, the
// event is stored, the first time, asked again and as malformed.
func TestAddUnusualTexts(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	for i, text := range []string{"🙂", "مرحبا", "a'b\"c\\", "nul \x00", "not UTF-8 \xff\xfe", "%s $1 {}", strings.Repeat("x", 60_000)} {
		id := fmt.Sprintf("🙂-مرحبا-'%d", i)
		strange := func(e *request.Event) { e.Traceparent, e.Source = text, text }
		for j, want := range []Added{Accepted, Repeated, Conflicting} {
			e := event(id, uint64(10*i+j), strange)
			e.Headers = map[string][]string{text: {text, ""}, "": nil}
			if want == Conflicting {
				e.Request, e.Raw, e.Subject, e.Stream = []byte(`{"other":true}`), []byte(text), text, "REQUESTS"
			}
			if got, err := s.Add(t.Context(), e); err != nil || got != want {
				t.Errorf("%.20q: %v, %v, want %v", text, got, err, want)
			}
		}
		m := request.Malformed{Message: event("", uint64(10*i+5), strange).Message, Err: text}
		m.Raw, m.Headers, m.Subject = []byte(text), map[string][]string{text: {text}}, text
		for range 2 {
			if err := s.AddMalformed(t.Context(), m); err != nil {
				t.Errorf("malformed %.20q: %v", text, err)
			}
		}
		if got := pgtest.One[[]byte](t, s.pool, `SELECT raw FROM outbox_malformed WHERE stream_sequence = $1`, 10*i+5); string(got) != text {
			t.Errorf("kept %.20q of %.20q", got, text)
		}
	}
	// Every operator can read every header: one bad row would fail the query.
	if n := pgtest.One[int](t, s.pool, `SELECT count(*) FROM outbox_malformed, json_each(headers) h WHERE h.value ->> 0 IS NOT NULL`); n != 14 {
		t.Errorf("%d headers, want 14", n)
	}
	if n := pgtest.One[int](t, s.pool, `SELECT count(*) FROM outbox_malformed`); n != 14 {
		t.Errorf("%d malformed and conflicts, want 14", n)
	}
}

// TestAddOneRefusedByPostgres: of a batch only that one fails, for good, and the
// constraint is named.
func TestAddOneRefusedByPostgres(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	answers, errs := make([]Added, 20), make([]error, 20)
	s.adds.Attend() // nothing is written until all wait
	var all sync.WaitGroup
	for i := range answers {
		all.Go(func() {
			answers[i], errs[i] = s.Add(t.Context(), event(fmt.Sprintf("e-%d", i), uint64(i), func(e *request.Event) {
				if i == 13 {
					e.Priority = 42
				}
			}))
		})
	}
	expect.Eventually(t, func() error {
		if n := s.adds.Waiting(); n < len(answers) {
			return fmt.Errorf("%d wait", n)
		}
		return nil
	})
	s.adds.Leave()
	all.Wait()
	for i, err := range errs {
		switch {
		case i != 13 && (err != nil || answers[i] != Accepted):
			t.Errorf("%d: %v, %v", i, answers[i], err)
		case i == 13 && (err == nil || Away(err) || !strings.Contains(err.Error(), "priority_is_0_to_9")):
			t.Errorf("13: %v (away %t)", err, Away(err))
		}
	}
	if n := pgtest.One[int](t, s.pool, `SELECT count(*) FROM outbox`); n != 19 {
		t.Errorf("%d rows, want 19", n)
	}
}

// TestAddConcurrent: 30 adders on two Stores, the same ids in any order, each
// message delivered several times: one row each, nobody waits for ever.
func TestAddConcurrent(t *testing.T) {
	t.Parallel()
	const adders, ids = 30, 40
	s := newStore(t).unhurried(t)
	stores := [2]*Store{s, s.another("w2")}
	var accepted atomic.Int64
	var all sync.WaitGroup
	for n := range adders {
		all.Go(func() {
			for _, i := range rand.Perm(ids) {
				e := event(fmt.Sprintf("c-%d", i), uint64(i+ids*(n%3))) // three messages ask under each id
				got, err := stores[n%2].Add(t.Context(), e)
				if err != nil {
					t.Errorf("%s: %v", e.RequestID, err)
				}
				if got == Accepted {
					accepted.Add(1)
				}
			}
		})
	}
	all.Wait()
	if n := accepted.Load(); n != ids {
		t.Errorf("%d were accepted, want %d", n, ids)
	}
	if n := pgtest.One[int](t, s.pool, `SELECT count(*) FROM outbox`); n != ids {
		t.Errorf("%d rows, want %d", n, ids)
	}
	if n := pgtest.One[int](t, s.pool, `SELECT count(*) FROM outbox_repeats`); n != 2*ids {
		t.Errorf("%d repeats, want %d", n, 2*ids)
	}
}

func TestAway(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		err  error
		want bool
	}{
		{nil, false},
		{errors.New("connection refused"), true},
		{ErrRemoved, false},
		{&pgconn.PgError{Code: "57P01"}, true},
		{&pgconn.PgError{Code: "53100"}, true},
		{&pgconn.PgError{Code: "25006"}, true},
		{&pgconn.PgError{Code: "22021"}, false},
		{fmt.Errorf("wrapped: %w", &pgconn.PgError{Code: "23514"}), false},
	} {
		if got := Away(tt.err); got != tt.want {
			t.Errorf("%v: %t", tt.err, got)
		}
	}
}

// TestSameMessagesTwice: two replicas store the same repeats, conflicts and malformed
// messages, redelivered to one while the other still has them, in other orders; none
// waits for one that waits for it.
func TestSameMessagesTwice(t *testing.T) {
	t.Parallel()
	const n = 60
	s := newStore(t)
	mustAdd(t, s, "k", n)
	two := [2]*Store{NewStore(s.pool, "one", testLimit, "interaction_request"), NewStore(s.pool, "two", testLimit, "interaction_request")}
	for round := range 20 {
		var asked []request.Event
		var bad []request.Malformed
		for i := range n {
			id, sequence := fmt.Sprintf("k-%d", i+1), uint64(1000*(round+1)+i)
			asked = append(asked, event(id, sequence), event(id, sequence+n, func(e *request.Event) { e.Request = []byte(`{"channel":{}}`) }))
			bad = append(bad, request.Malformed{Message: event("", sequence+2*n).Message, Err: "x"})
		}
		var both sync.WaitGroup
		for i, store := range two {
			asked, bad := slices.Clone(asked), slices.Clone(bad)
			if i == 1 {
				slices.Reverse(asked)
				slices.Reverse(bad)
			}
			both.Go(func() {
				if _, err := store.addBatch(t.Context(), asked); err != nil {
					t.Error(err)
				}
				if _, err := store.Messages.KeepMalformed(t.Context(), bad); err != nil {
					t.Error(err)
				}
			})
		}
		if both.Wait(); t.Failed() {
			return
		}
	}
}
