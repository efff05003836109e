package operator_test

import (
	"errors"
	"reflect"
	"slices"
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
		if slices.Contains([]string{"For", "ReadingFrom", "MayLook", "WhoHolds"}, method.Name) { // none of them tells or changes anything by itself
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

// TestMayLook: a desk says of its caller what its questions go by.
func TestMayLook(t *testing.T) {
	t.Parallel()
	for right, may := range map[operator.Right]bool{operator.MayNothing: false, operator.MayLook: true, operator.MayAct: true} {
		if err := operator.NewDesk(nil, operator.Caller{Right: right}, nil).MayLook(); errors.Is(err, operator.ErrForbidden) == may {
			t.Errorf("with right %d: %v", right, err)
		}
	}
}
