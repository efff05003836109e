package operator

import (
	"strings"
	"testing"
	"time"

	"flexworker/internal/flex"
	"flexworker/internal/outbox/request"
)

// TestExplainCodes: the cause of each code is told once; the remedy of the latest attempt's only while it is true of
// the request, and never where the request may exist.
func TestExplainCodes(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 22, 3, 0, 0, 0, time.UTC)
	attempt := func(number, code int, outcome string) History {
		return History{Kind: "attempt", Number: number, Worker: "w1", StartedAt: now, TwilioCode: &code, Outcome: outcome, Applied: true}
	}
	code := func(n int) flex.Code {
		c, known := flex.CodeOf(n)
		if !known {
			t.Fatal(n)
		}
		return c
	}
	for _, tt := range []struct {
		name    string
		state   request.State
		change  func(*Detail)
		history []History
		remedy  int // the code whose remedy is told; 0: none
	}{
		{"rejected", request.Rejected, nil, []History{attempt(1, 20429, "refused"), attempt(2, 45354, "rejected")}, 45354},
		{"rejected, and an earlier attempt was never decided", request.Rejected, func(d *Detail) { d.Undecided = true },
			[]History{attempt(1, 20500, "uncertain"), attempt(2, 45354, "rejected")}, 0},
		{"a 5xx with the code of a rejection", request.Uncertain, nil, []History{attempt(1, 45354, "uncertain")}, 0},
		{"uncertain", request.Uncertain, nil, []History{attempt(1, 45356, "uncertain")}, 45356},
		{"waits for a person", request.Uncertain, func(d *Detail) { d.ForPersonSince = &now }, []History{attempt(1, 45356, "uncertain")}, 0},
		{"rejected, retried, uncertain", request.Uncertain, nil, []History{attempt(1, 45354, "rejected"), attempt(2, 45356, "uncertain")}, 45356},
		{"found", request.Created, nil, []History{attempt(1, 45356, "uncertain")}, 0},
		{"blocked", request.Pending, nil, []History{attempt(1, 20003, "blocked")}, 20003},
		{"retried after a rejection", request.Pending, nil, []History{attempt(1, 45103, "rejected")}, 0},
		{"told too late", request.Rejected, nil, []History{{Kind: "attempt", Number: 1, TwilioCode: new(45354), Outcome: "rejected"}}, 0},
		{"a lookup's", request.Uncertain, nil, []History{{Kind: "lookup", Number: 1, TwilioCode: new(20429), Outcome: "unclear", Applied: true}}, 0},
		{"a code that nobody knows", request.Rejected, nil, []History{attempt(1, 99999, "rejected")}, 0},
	} {
		d := Detail{History: tt.history}
		d.State, d.DueAt = tt.state, &now
		for _, h := range tt.history {
			if h.Kind == "attempt" {
				d.Attempt = h.Number
			}
		}
		if tt.change != nil {
			tt.change(&d)
		}
		got := strings.Join(d.Codes(), "\n")
		for _, h := range tt.history {
			c, known := flex.CodeOf(*h.TwilioCode)
			if known && strings.Count(got, c.Cause) != 1 || !known && got != "" {
				t.Errorf("%s: of %d it says %q", tt.name, *h.TwilioCode, got)
			}
			if told := known && strings.Contains(got, c.Remedy); told != (*h.TwilioCode == tt.remedy) {
				t.Errorf("%s: the remedy for %d is told: %v\n%s", tt.name, *h.TwilioCode, told, got)
			}
		}
		if tt.remedy != 0 && !strings.HasSuffix(got, code(tt.remedy).Remedy) {
			t.Errorf("%s: %s", tt.name, got)
		}
	}
}
