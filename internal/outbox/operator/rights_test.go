package operator_test

import (
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"

	"flexworker/internal/outbox/operator"
)

// TestRights: without a right no question is answered and nothing is done; with the right to look, nothing is done. What
// is refused is refused before the database is asked: these desks have none. A sender, whose right is to its own requests
// alone, is refused everything else.
func TestRights(t *testing.T) {
	t.Parallel()
	act := reflect.TypeFor[operator.Act]()
	acts := 0
	for method := range reflect.TypeFor[*operator.Desk]().Methods() {
		if slices.Contains([]string{"For", "ReadingFrom", "Telling", "MayLook", "MayAct", "WhoHolds"}, method.Name) { // none of them tells or changes anything by itself
			continue
		}
		in := make([]reflect.Value, method.Type.NumIn())
		isAct := false
		for i := range in {
			in[i] = reflect.Zero(method.Type.In(i))
			if in[i].Type() == act {
				in[i], isAct = reflect.ValueOf(aTest), true
			}
		}
		in[1] = reflect.ValueOf(t.Context())
		refused := []operator.Right{operator.MayNothing}
		if isAct {
			refused = append(refused, operator.MayLook)
			acts++
		}
		callers := make([]operator.Caller, 0, 4)
		for _, right := range refused {
			callers = append(callers, operator.Caller{Name: "ann", Right: right})
		}
		if slices.Contains([]string{"OwnStatus", "CancelOwn"}, method.Name) { // which are for senders alone
			callers = append(callers, ann, operator.Sender(""), operator.Sender("bad.\xff"))
		} else {
			callers = append(callers, operator.Sender("crm"))
		}
		for _, caller := range callers {
			in[0] = reflect.ValueOf(operator.NewDesk(nil, caller, nil))
			out := method.Func.Call(in)
			if err, _ := out[len(out)-1].Interface().(error); !errors.Is(err, operator.ErrForbidden) {
				t.Errorf("%s by %+v: %v", method.Name, caller, err)
			}
		}
	}
	if acts < 7 {
		t.Errorf("only %d acts were found", acts)
	}
}

// TestMay: a desk says of its caller what its questions and acts go by.
func TestMay(t *testing.T) {
	t.Parallel()
	for right := operator.MayNothing; right <= operator.MayAct; right++ {
		desk := operator.NewDesk(nil, operator.Caller{Right: right}, nil)
		if err := desk.MayLook(); errors.Is(err, operator.ErrForbidden) != (right < operator.MayLook) {
			t.Errorf("with right %d to look: %v", right, err)
		}
		if err := desk.MayAct(); errors.Is(err, operator.ErrForbidden) != (right < operator.MayAct) {
			t.Errorf("with right %d to act: %v", right, err)
		}
	}
}

// TestReason: an act wants a reason that its record can have.
func TestReason(t *testing.T) {
	t.Parallel()
	s := newRig(t)
	for why, want := range map[string]error{
		"": operator.ErrNoReason, " \n": operator.ErrNoReason, "...": operator.ErrNoReason, "…": operator.ErrNoReason,
		strings.Repeat("é", operator.WhyMost+1): operator.ErrReason, "a\x00b": operator.ErrReason, "a\xff": operator.ErrReason,
		strings.Repeat("é", operator.WhyMost): nil,
	} {
		if _, err := s.desk.Hold(t.Context(), operator.Act{Why: why}); !errors.Is(err, want) {
			t.Errorf("%.20q: %v, want %v", why, err, want)
		}
		if _, err := s.desk.For(operator.Sender("crm")).CancelOwn(t.Context(), "r", operator.Act{Why: why}); want != nil && !errors.Is(err, want) {
			t.Errorf("a sender's %.20q: %v, want %v", why, err, want)
		}
	}
}
