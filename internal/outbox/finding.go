package outbox

import (
	"context"
	"fmt"
	"strings"
	"time"

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
}

// finder is *flex.Client; tests put another in its place.
type finder interface {
	SearchTasks(ctx context.Context, workspaceSID, attribute string, keys []string) ([]flex.Task, error)
	Events(ctx context.Context, workspaceSID, attribute string, keys []string, from, to time.Time) ([]flex.Task, bool, error)
	Fetch(ctx context.Context, sid string) flex.Outcome
}

// How far TaskRouter can be asked. Sources: TaskRouter's task states (a task is
// deleted five minutes after it ended) and event log (30 days).
const (
	taskMemory = 5 * time.Minute
	// clockSlack is how far Postgres's clock and Twilio's may be apart.
	clockSlack = 30 * time.Second
	// eventWindow is the longest time of the log that one lookup reads.
	eventWindow = 15 * time.Minute
)

// An inquiry is one turn of asking: uncertain requests of one workspace, whose keys
// were sent under one attribute. That is the rows' own: under the name that the
// looker's settings have, nothing would be found, which must not pass for absence.
type inquiry struct {
	workspace string
	attribute string
	asked     []uncertain
	waiting   bool // there is something to ask, be it now or when the fleet may search again
	// control is a key that is known to exist there; "" for none. A search that
	// finds it has understood the question for all keys.
	control string
	settle  time.Duration
	lease   time.Duration
}

// lookUp asks TaskRouter about all requests of the inquiry: one search, then,
// for those whose absence would count now, one read of the event log. The error
// says why one of the two could not be asked; the findings hold all the same.
func (q inquiry) lookUp(ctx context.Context, f finder) ([]Finding, error) {
	findings := make([]Finding, len(q.asked))
	tasks, err := f.SearchTasks(ctx, q.workspace, q.attribute, q.keys())
	if err != nil {
		for i := range findings {
			findings[i].Why = "TaskRouter could not be asked: " + err.Error()
		}
		return findings, err
	}
	// Nobody documents that the filter takes a list. A hit shows that it did.
	conclusive := len(q.keys()) == 1 || len(tasks) > 0
	byKey := map[string][]flex.Task{}
	for _, t := range tasks {
		byKey[t.Key] = append(byKey[t.Key], t)
	}
	var late []int
	for i, u := range q.asked {
		switch hits := byKey[u.lookupKey]; {
		case len(hits) > 0:
			findings[i] = adopt(ctx, f, hits)
		case u.age < q.settle:
			findings[i].Why = "not listed yet; that proves nothing before the settle time is over"
		case !conclusive && !q.forgotten(u):
			findings[i] = Finding{Alone: true, Why: "not listed, but nothing shows that TaskRouter understood a question for several keys"}
		default:
			late = append(late, i)
		}
	}
	return findings, q.askEvents(ctx, f, late, findings)
}

// keys are what one search asks for.
func (q inquiry) keys() []string {
	keys := make([]string, 0, len(q.asked)+1)
	for _, u := range q.asked {
		keys = append(keys, u.lookupKey)
	}
	if q.control != "" && len(q.asked) > 1 {
		keys = append(keys, q.control)
	}
	return keys
}

// forgotten says whether a task of that attempt may have ended and be deleted
// by now: then the search says nothing and the event log alone decides.
func (q inquiry) forgotten(u uncertain) bool { return u.age+q.lease > taskMemory }

// askEvents is the second witness, and later than five minutes the only one.
func (q inquiry) askEvents(ctx context.Context, f finder, late []int, findings []Finding) error {
	if len(late) == 0 {
		return nil
	}
	// The oldest first; what lies beyond one window has its own turn later.
	// Nor is more read than their attempts' time: a busy account creates more in a
	// whole window than one inquiry can read.
	from, last := q.asked[late[0]].since, q.asked[late[0]].since
	for _, i := range late {
		since := q.asked[i].since
		if since.Before(from) {
			from = since
		}
		if since.After(last) {
			last = since
		}
	}
	from = from.Add(-q.lease - clockSlack)
	to := last.Add(q.settle + clockSlack)
	if most := from.Add(eventWindow); to.After(most) {
		to = most
	}
	keys := make([]string, 0, len(late))
	for _, i := range late {
		keys = append(keys, q.asked[i].lookupKey)
	}
	tasks, complete, err := f.Events(ctx, q.workspace, q.attribute, keys, from, to)
	byKey := map[string][]flex.Task{}
	for _, t := range tasks {
		byKey[t.Key] = append(byKey[t.Key], t)
	}
	for _, i := range late {
		u := q.asked[i]
		switch hits := byKey[u.lookupKey]; {
		case len(hits) > 0:
			findings[i] = adopt(ctx, f, hits)
		case err != nil:
			findings[i].Why = "not listed, but TaskRouter's event log could not be asked: " + err.Error()
		case !complete || u.since.Add(clockSlack).After(to):
			findings[i].Why = "not listed, but TaskRouter's event log could not be read for all of the attempt's time"
		case q.forgotten(u):
			findings[i] = Finding{Kind: Absent, Why: "TaskRouter's event log knows no task with its key; the task list no longer counts"}
		default:
			findings[i] = Finding{Kind: Absent, Why: "neither TaskRouter's tasks nor its event log know its key"}
		}
	}
	return err
}

// adopt reads the interaction that tasks with one key name; of several the oldest.
func adopt(ctx context.Context, f finder, tasks []flex.Task) Finding {
	var first flex.Task
	var sids []string
	seen := map[string]bool{}
	for _, t := range tasks {
		if t.InteractionSID == "" {
			continue
		}
		older := !t.DateCreated.IsZero() && (first.DateCreated.IsZero() || t.DateCreated.Before(first.DateCreated))
		if first.InteractionSID == "" || older {
			first = t
		}
		if !seen[t.InteractionSID] {
			seen[t.InteractionSID] = true
			sids = append(sids, t.InteractionSID)
		}
	}
	if first.InteractionSID == "" {
		return Finding{TaskSID: tasks[0].TaskSID, Why: fmt.Sprintf("task %s carries its key but does not name its interaction", tasks[0].TaskSID)}
	}
	o := f.Fetch(ctx, first.InteractionSID)
	if o.Kind != flex.Created {
		return Finding{TaskSID: first.TaskSID, Why: fmt.Sprintf("task %s names interaction %s, which could not be read: %s", first.TaskSID, first.InteractionSID, o.Message)}
	}
	found := Finding{Kind: Found, Outcome: o, TaskSID: first.TaskSID}
	for _, sid := range sids {
		if sid != first.InteractionSID {
			found.Others = append(found.Others, sid)
		}
	}
	return found
}

// duplicate is the reason that stands in the result of a request which somebody
// had created more than once; "" when there is one interaction.
func (f Finding) duplicate() string {
	if len(f.Others) == 0 {
		return ""
	}
	return "created more than once; the oldest is adopted, close the others: " + strings.Join(f.Others, ", ")
}
