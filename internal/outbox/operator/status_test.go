package operator_test

import (
	"testing"

	"flexworker/internal/outbox/operator"
	"flexworker/internal/outbox/request"
	"flexworker/internal/testing/pgtest"
)

// TestNow: what needs attention is counted up to a bound, the longest waiting first; what fails, by kind.
func TestNow(t *testing.T) {
	t.Parallel()
	s := newRig(t)
	mustAdd(t, s, "u", 3)
	mustAdd(t, s, "p", 2)
	mustAdd(t, s, "f", 4, faulty("no"))
	pgtest.Exec(t, s.pool, `UPDATE outbox SET published_at = now() WHERE state = 'rejected'`)
	pgtest.Exec(t, s.pool, `UPDATE outbox SET state = 'uncertain', attempt = 1, attempt_began_at = now(), uncertain_since = now(), error_kind = 'timeout',
		for_person_since = now() - id * interval '1 minute' WHERE request_id LIKE 'u-%'`)
	pgtest.Exec(t, s.pool, `UPDATE outbox SET attempt = 1, error_kind = 'http_503', http_status = 503, attempt_began_at = now() WHERE request_id LIKE 'p-%'`)
	pgtest.Exec(t, s.pool, `UPDATE outbox SET settled_at = now() - interval '2 hours', error_kind = 'http_400' WHERE request_id = 'f-4'`)
	pgtest.Exec(t, s.pool, `UPDATE outbox SET error_kind = 'http_400', http_status = 400, twilio_code = 20001 WHERE request_id = 'f-1'`)
	pgtest.Exec(t, s.pool, `ANALYZE outbox`)
	now, err := s.desk.Now(t.Context())
	if err != nil || now.Total != 9 || now.Waiting != 3 || len(now.Attention) != 3 || now.Attention[0].ID != "u-3" || now.Attention[2].ID != "u-1" || now.Cut || now.Unread != nil {
		t.Errorf("%+v, %v", now, err)
	}
	for i, want := range []struct {
		state  request.State
		kind   string
		status int
		code   int
		n      int
	}{{request.Pending, "http_503", 503, 0, 2}, {request.Rejected, "invalid", 0, 0, 2}, {request.Rejected, "http_400", 400, 20001, 1}} {
		if i >= len(now.Failing) {
			t.Fatalf("%+v", now.Failing)
		}
		got := now.Failing[i]
		if got.State != want.state || pgtest.Deref(got.ErrorKind) != want.kind || pgtest.Deref(got.HTTPStatus) != want.status || pgtest.Deref(got.TwilioCode) != want.code || got.Requests != want.n {
			t.Errorf("%+v, want %+v", got, want)
		}
	}
	pgtest.Exec(t, s.pool, `
		INSERT INTO outbox (request_id, source, state, request, attempt, attempt_began_at, uncertain_since, for_person_since, error_kind, stream_sequence, stream_time)
		SELECT 'more-' || n, 'crm', 'uncertain', '{}', 1, now(), now(), now(), 'timeout', n, now() FROM generate_series(1, $1::integer) AS n`, operator.WaitingMost)
	if now, err = s.desk.Now(t.Context()); err != nil || now.Waiting != operator.WaitingMost+1 || len(now.Attention) != operator.StatusMost || now.Attention[0].ID != "u-3" {
		t.Errorf("%d wait, %d are shown, %v", now.Waiting, len(now.Attention), err)
	}
}
