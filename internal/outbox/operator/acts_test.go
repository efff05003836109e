package operator_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"flexworker/internal/outbox/operator"
	"flexworker/internal/testing/pgtest"
)

// TestActs: all acts come once, the newest first, those on requests and those on the gate.
func TestActs(t *testing.T) {
	t.Parallel()
	s := newRig(t)
	if acts, next, err := s.desk.Acts(t.Context(), ""); err != nil || len(acts) != 0 || next != "" {
		t.Errorf("before the first: %v, %q, %v", acts, next, err)
	}
	mustAdd(t, s, "a", operator.ListMost)
	if _, err := s.cancel(t.Context(), aTest, operator.Filter{}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.desk.Hold(t.Context(), operator.Act{Why: "they asked for it"}); err != nil {
		t.Fatal(err)
	}
	first, next, err := s.desk.Acts(t.Context(), "")
	if err != nil || len(first) != operator.ListMost || next == "" {
		t.Fatalf("%d acts, %q, %v", len(first), next, err)
	}
	if hold := first[0]; hold.Act != "hold" || hold.Who != ann.Name || hold.Why != "they asked for it" || hold.Was != "open" || hold.RequestID != nil || hold.At.IsZero() {
		t.Errorf("%+v", hold)
	}
	rest, next, err := s.desk.Acts(t.Context(), next)
	if err != nil || len(rest) != 1 || next != "" {
		t.Fatalf("%v, %q, %v", rest, next, err)
	}
	var of []string
	for _, act := range slices.Backward(append(first[1:], rest...)) {
		of = append(of, *act.RequestID)
	}
	for i, id := range of {
		if id != fmt.Sprintf("a-%d", i+1) {
			t.Fatalf("%v", of)
		}
	}
}

// TestMalformed: what could not become a request is listed without its bytes, and shown with them.
func TestMalformed(t *testing.T) {
	t.Parallel()
	s := newRig(t)
	pgtest.Exec(t, s.pool, `
		INSERT INTO outbox_malformed (kind, stream, stream_sequence, stream_time, subject, source, request_id, headers, raw, error)
		SELECT 'conflict', 'REQUESTS', n, now(), 'interactions.requests.crm', 'crm', 'a-' || n, '{"X": ["<b>", "2"]}', decode('00ff3c', 'hex'), 'no'
		  FROM generate_series(1, $1::integer) AS n`, operator.ListMost+2)
	first, next, err := s.desk.Malformed(t.Context(), "")
	if err != nil || len(first) != operator.ListMost || next == "" || first[0].Sequence != operator.ListMost+2 || first[0].Size != 3 {
		t.Fatalf("%d, %q, %v", len(first), next, err)
	}
	rest, next, err := s.desk.Malformed(t.Context(), next)
	if err != nil || len(rest) != 2 || next != "" || rest[1].Sequence != 1 || *rest[1].RequestID != "a-1" {
		t.Fatalf("%v, %q, %v", rest, next, err)
	}
	m, err := s.desk.MalformedMessage(t.Context(), rest[1].ID)
	if err != nil || m.Error != "no" || string(m.Headers) != `{"X": ["<b>", "2"]}` || string(m.Raw) != "\x00\xff<" {
		t.Errorf("%+v, %v", m, err)
	}
	if _, err := s.desk.MalformedMessage(t.Context(), 4711); !errors.Is(err, operator.ErrUnknown) {
		t.Errorf("one that is not there: %v", err)
	}
}

// TestActIsNotLaterThanItsEffect: the end of a request, or the wish to cancel it, is not recorded as earlier than the act that
// brought it.
func TestActIsNotLaterThanItsEffect(t *testing.T) {
	t.Parallel()
	for name, act := range map[string]func(s *rig) error{
		"cancel": func(s *rig) error {
			_, err := s.cancel(t.Context(), aTest, operator.Filter{RequestIDs: []string{"pending"}})
			return err
		},
		"cancel of what may exist": func(s *rig) error {
			_, err := s.cancel(t.Context(), aTest, operator.Filter{RequestIDs: []string{"uncertain"}})
			return err
		},
		"resolve": func(s *rig) error { return s.resolve(t, "uncertain", created(sidB)) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newRig(t)
			everyState(t, s)
			if err := act(s); err != nil {
				t.Fatal(err)
			}
			if late := pgtest.One[time.Duration](t, s.pool, `SELECT a.at - greatest(o.settled_at, o.cancel_requested_at) FROM outbox_acts a JOIN outbox o USING (request_id)`); late > 0 {
				t.Errorf("the act is recorded %v after its effect", late)
			}
		})
	}
	t.Run("republish", func(t *testing.T) { // which leaves the end as it is
		t.Parallel()
		s := newRig(t)
		everyState(t, s)
		pgtest.Exec(t, s.pool, `UPDATE outbox SET settled_at = now() - interval '1 hour' WHERE request_id = 'created'`)
		if _, err := s.republish(t.Context(), aTest, operator.Filter{RequestIDs: []string{"created"}}); err != nil {
			t.Fatal(err)
		}
		if late := pgtest.One[time.Duration](t, s.pool, `SELECT a.at - o.settled_at FROM outbox_acts a JOIN outbox o USING (request_id)`); late < time.Hour {
			t.Errorf("the act is recorded %v after an end that is an hour old", late)
		}
	})
}
