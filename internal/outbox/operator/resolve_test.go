package operator_test

import (
	"errors"
	"testing"

	"flexworker/internal/flex"
	"flexworker/internal/outbox/operator"
	"flexworker/internal/outbox/request"
	"flexworker/internal/testing/pgtest"
)

// TestResolveByHand: only what is uncertain, only with the sid of an interaction.
func TestResolveByHand(t *testing.T) {
	t.Parallel()
	s := newRig(t)
	everyState(t, s)
	for _, sid := range []string{"", "KD12", "WT0000000000000000000000000000000a", sidA + "0", "KDzz" + sidA[4:], sidA + "\n"} {
		if err := s.desk.ResolveCreated(t.Context(), ann, "uncertain", sid, flex.Outcome{}); err == nil {
			t.Errorf("%q was believed", sid)
		}
	}
	for _, state := range append(request.States[:], "nobody") {
		if state == request.Uncertain {
			continue
		}
		if err := s.desk.ResolveCreated(t.Context(), ann, string(state), sidB, flex.Outcome{}); !errors.Is(err, operator.ErrNotUncertain) {
			t.Errorf("%s as created: %v", state, err)
		}
		if err := s.desk.ResolveAbsent(t.Context(), ann, string(state)); !errors.Is(err, operator.ErrNotUncertain) {
			t.Errorf("%s as absent: %v", state, err)
		}
	}
	if got := acts(t, s); got != "" {
		t.Errorf("recorded %s", got)
	}
	if err := s.desk.ResolveAbsent(t.Context(), ann, "uncertain"); err != nil {
		t.Fatal(err)
	}
	if r := s.row(t, "uncertain"); r.State != request.Pending || pgtest.Deref(r.ErrorKind) != "absent" {
		t.Errorf("%+v", r)
	}
	if n := pgtest.One[int](t, s.pool, `SELECT count(*) FROM outbox WHERE state = 'pending' AND due_at <= now()`); n != 2 { // it and the pending one
		t.Fatalf("%d are due", n)
	}
	uncertainAgain(t, s, "uncertain")
	if err := s.desk.ResolveCreated(t.Context(), ann, "uncertain", sidB, flex.Outcome{TaskSID: "WT7", AssignmentStatus: "assigned", Response: []byte(`{"a":1}`)}); err != nil {
		t.Fatal(err)
	}
	r := s.row(t, "uncertain")
	if r.State != request.Created || pgtest.Deref(r.InteractionSID) != sidB || pgtest.Deref(r.ResolvedBy) != "operator" || pgtest.Deref(r.TaskSID) != "WT7" ||
		pgtest.Deref(r.AssignmentStatus) != "assigned" || pgtest.Deref(r.Response) != `{"a":1}` || r.ErrorKind != nil || r.DueIn != nil {
		t.Errorf("%+v", r)
	}
	const want = "ann@desk a test resolve absent uncertain uncertain; ann@desk a test resolve created uncertain uncertain"
	if got := acts(t, s); got != want {
		t.Errorf("recorded %s", got)
	}
}
