package request

// State is where a request stands. The comment of package outbox has the picture.
type State string

// The states. Created, Rejected, Abandoned, Expired and Cancelled are final.
const (
	Pending   State = "pending"   // waits for due_at
	Sending   State = "sending"   // leased: a call may be under way
	Uncertain State = "uncertain" // may exist: waits for a lookup, and in the end for a person
	Created   State = "created"   // exists, its sid is known
	Rejected  State = "rejected"  // Flex will never take it
	Abandoned State = "abandoned" // given up: every counted attempt is used up, or UNCERTAIN_POLICY gives up
	Expired   State = "expired"   // its deadline passed while it was pending, and no attempt had created it
	Cancelled State = "cancelled" // an operator or its sender stopped it, and no attempt had created it
)

// States are all states, in the order of a request's life.
var States = [...]State{Pending, Sending, Uncertain, Created, Rejected, Abandoned, Expired, Cancelled}

// Final says whether a request in this state is settled.
func (s State) Final() bool {
	switch s {
	case Created, Rejected, Abandoned, Expired, Cancelled:
		return true
	default:
		return false
	}
}
