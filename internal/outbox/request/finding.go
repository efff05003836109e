package request

import (
	"strings"

	"flexworker/internal/flex"
)

// FindingKind is what one lookup tells about an uncertain request.
type FindingKind uint8

// The kinds of finding. The zero value is the safe one: nothing was learned.
const (
	Unclear FindingKind = iota // it could not be asked, or the answer decides nothing
	Found                      // the interaction exists
	Absent                     // both witnesses, or the one that counts, know nothing of it
)

// String is the word in outbox_attempts.
func (k FindingKind) String() string { return [...]string{"unclear", "found", "absent"}[k] }

// Finding is what one lookup told about one request. The zero value is Unclear.
type Finding struct {
	Kind FindingKind
	// Outcome is the interaction as Flex shows it; set when Kind is Found.
	Outcome flex.Outcome
	TaskSID string
	// Others are further interactions under the same key: it was created twice,
	// by somebody who repeated the call. The oldest is the one that was found.
	Others []string
	Why    string // in words, for Unclear and Absent
	// Alone is set for an Unclear that only a search for this one key can clear.
	Alone bool
	// Foreign is set for an Unclear that only a person can clear: there is a task with
	// its key that is older than the request.
	Foreign bool
	// Hopeless is set for an Unclear that no later lookup will prove absent.
	Hopeless bool
}

// Duplicate is the reason that stands in the result of a request which somebody
// had created more than once; "" when there is one interaction.
func (f Finding) Duplicate() string {
	if len(f.Others) == 0 {
		return ""
	}
	return "created more than once; the oldest is adopted, close the others: " + strings.Join(f.Others, ", ")
}
