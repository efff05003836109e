package page

import (
	"errors"

	"flexworker/internal/outbox/gate"
	"flexworker/internal/outbox/operator"
)

// hold and release shut and open the gate. A release opens what its form showed, and no later hold. A hold is taken whatever
// the gate was: who has something to stop is not refused because another was faster.
func (v *visit) hold() error {
	c, err := v.desk.Hold(v.ctx(), operator.Act{Why: v.r.PostFormValue("why")})
	if err != nil {
		return err
	}
	n := notice{"good", "The fleet is held", nil} // what that means stands below it
	if c.Before.State == c.After.State {
		n.Title = "The fleet was held already"
		n.Lines = []string{"Your reason stands before the earlier one."}
	}
	return v.gateMoved(n)
}

func (v *visit) release() error {
	defer v.takes(actLimit)()
	a := operator.Act{Why: v.r.PostFormValue("why"), Seen: operator.Tag(v.r.PostFormValue("tag"))}
	c, err := v.desk.Release(v.ctx(), a)
	n := notice{"good", "The gate is open", []string{"All replicas send again."}}
	switch {
	case errors.Is(err, operator.ErrLeftOut):
		n = notice{"warn", "The gate is open", []string{"Some requests that waited for it are not due yet, since another session holds their rows. They are sent when they are due; `worker release --why ...` makes them due at once."}}
	case errors.Is(err, operator.ErrStale):
		n = notice{"bad", "Nothing was changed: the gate is no longer as you saw it", []string{"It is " + gateNow(c.Before) + "."}}
		if since, err := v.desk.GateSince(v.ctx(), a.Seen); err == nil {
			n.Lines = []string{"Since then: " + since + ". It is " + gateNow(c.Before) + " now."}
		}
		v.page.memory.forget()
		v.refused = &refusal{notice: n, Act: "release", Why: a.Why}
		return v.now()
	case err != nil:
		return err
	}
	return v.gateMoved(n)
}

// gateNow is the gate in a word.
func gateNow(g gate.Status) string {
	if g.State == gate.Held {
		return "held"
	}
	return "open"
}

func (v *visit) gateMoved(n notice) error {
	v.page.memory.forget()
	n.leave(v.w, v.r)
	to(v.w, "./")
	return nil
}
