package operator_test

import (
	"errors"
	"strings"
	"testing"

	"flexworker/internal/outbox/operator"
	"flexworker/internal/testing/pgtest"
)

// TestMarks: the mark of a request is another one after everything that is recorded of it, and the same where nothing was.
func TestMarks(t *testing.T) {
	t.Parallel()
	s := newRig(t)
	mustAdd(t, s, "a", 2, keyed)
	marks := func() map[string]string {
		t.Helper()
		all, err := s.desk.Marks(t.Context(), []string{"a-1", "a-2", "there is none"})
		if err != nil || len(all) != 2 || all["a-1"] == "" || all["a-2"] == "" {
			t.Fatal(all, err)
		}
		return all
	}
	before := marks()
	for _, step := range []struct {
		name string
		do   func()
	}{
		{"an attempt", func() { uncertainAgain(t, s, "a-1") }},
		{"an act", func() {
			if ids, err := s.cancel(t.Context(), aTest, operator.Filter{RequestIDs: []string{"a-1"}}); err != nil || len(ids) != 1 {
				t.Fatal(ids, err)
			}
		}},
		{"a decision", func() {
			if err := s.resolve(t, "a-1", created(sidA)); err != nil {
				t.Fatal(err)
			}
		}},
		{"a result that is acknowledged", func() {
			pgtest.Exec(t, s.pool, `UPDATE outbox SET published_at = clock_timestamp() WHERE request_id = 'a-1'`)
		}},
		{"a look at its set-up", func() {
			pgtest.Exec(t, s.pool, `INSERT INTO outbox_setups (id, created_at, due_at) SELECT id, now(), now() FROM outbox WHERE request_id = 'a-1'`)
		}},
		{"another look", func() { pgtest.Exec(t, s.pool, `UPDATE outbox_setups SET checks = checks + 1`) }},
		{"an act that moves nothing", func() {
			pgtest.Exec(t, s.pool, `INSERT INTO outbox_acts (who, why, act, request_id, was) VALUES ('ann', 'a test', 'lookup', 'a-1', 'uncertain')`)
		}},
	} {
		step.do()
		after := marks()
		if after["a-1"] == before["a-1"] || after["a-2"] != before["a-2"] {
			t.Errorf("after %s: %v, before %v", step.name, after, before)
		}
		before = after
	}
}

// TestNewest: what is only ever added to is newer when something was added.
func TestNewest(t *testing.T) {
	t.Parallel()
	s := newRig(t)
	newest := func() operator.Newest {
		t.Helper()
		n, err := s.desk.Newest(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	if n := newest(); n != (operator.Newest{}) {
		t.Errorf("of empty tables: %+v", n)
	}
	mustAdd(t, s, "a", 1)
	if _, err := s.desk.Hold(t.Context(), aTest); err != nil {
		t.Fatal(err)
	}
	if n := newest(); n.Request == 0 || n.Act == 0 || n.Malformed != 0 {
		t.Errorf("%+v", n)
	}
}

// TestAnswer: the result is that which is published, under its message id, and there is none before the request has settled.
func TestAnswer(t *testing.T) {
	t.Parallel()
	s := newRig(t)
	mustAdd(t, s, "a", 1, keyed)
	for _, id := range []string{"a-1", "there is none"} {
		if a, err := s.desk.Answer(t.Context(), id); !errors.Is(err, operator.ErrUnknown) {
			t.Errorf("%s: %+v, %v", id, a, err)
		}
	}
	uncertainAgain(t, s, "a-1")
	if err := s.resolve(t, "a-1", created(sidA)); err != nil {
		t.Fatal(err)
	}
	a, err := s.desk.Answer(t.Context(), "a-1")
	if err != nil || a.Outcome != "created" || a.Source != "crm" || !strings.HasSuffix(a.MessageID, "-1") {
		t.Errorf("%+v, %v", a, err)
	}
	for _, part := range []string{`"request_id":"a-1"`, `"interaction_sid":"` + sidA + `"`, `"resolved_by":"operator"`} {
		if !strings.Contains(string(a.Body), part) {
			t.Errorf("the body lacks %s: %s", part, a.Body)
		}
	}
}
