package outbox

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"flexworker/internal/flex"
	"flexworker/internal/outbox/request"
)

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
	logMemory  = 30 * 24 * time.Hour
	// clockSlack is how far Postgres's clock and Twilio's may be apart.
	clockSlack = 30 * time.Second
)

// An inquiry is one turn of asking: uncertain requests of one workspace, whose keys
// were sent under one attribute. All it needs to know of their attempts stands in their
// rows. The looker's own settings may be others than the sender's were: under another
// attribute, or for another time, nothing would be found, which must not pass for absence.
type inquiry struct {
	workspace string
	attribute string
	asked     []uncertain
	waiting   bool // there is something to ask, be it now or when the fleet may search again
	// control is a key that is known to exist there; "" for none. A search that
	// finds it has understood the question for all keys.
	control string
	// settle is the longest LOOKUP_SETTLE in force in the fleet.
	settle time.Duration
	// later is a creation after all of these attempts; its key is "" when none is known.
	later creation
}

// A creation is an interaction that Flex said it had created, with a task in the
// inquiry's workspace and its key under the inquiry's attribute. The attempt began after
// any moment at which the inquiry's attempts could have had a task created. So a log that
// shows it has caught up with them. One that lags does not show it.
type creation struct {
	key            string
	began, settled time.Time
	ripe           bool // as old as the settle time: it has to be in the log
}

// lookUp asks TaskRouter about all requests of the inquiry: one search, then,
// for those whose absence would count now, one read of the event log. The error
// says why one of the two could not be asked; the findings hold all the same.
func (q inquiry) lookUp(ctx context.Context, f finder) ([]request.Finding, error) {
	findings := make([]request.Finding, len(q.asked))
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
			findings[i] = adopt(ctx, f, hits, u.received)
		case u.age < q.settle:
			findings[i].Why = "not listed yet; that proves nothing before the settle time is over"
		case u.began.After(u.since.Add(clockSlack)):
			findings[i].Why = "not listed, but its attempt began later than it ended: the database's clock went back, and when it began is not known"
		case u.lasted+lookupLimit+clockSlack > logMemory:
			findings[i] = request.Finding{Hopeless: true, Why: "not listed, and its attempt is older than TaskRouter's event log"}
		case !conclusive && !u.forgotten():
			findings[i] = request.Finding{Alone: true, Why: "not listed, but nothing shows that TaskRouter understood a question for several keys"}
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

// forgotten says whether a task of that attempt may have ended and be deleted by now:
// it may have been created, and have ended, in the attempt's first moment, however long
// the attempt then took. Then the search says nothing and the event log alone decides.
// A lookup's own time is part of it.
func (u uncertain) forgotten() bool { return u.lasted+lookupLimit > taskMemory }

// askEvents is the second witness, and later than five minutes the only one.
func (q inquiry) askEvents(ctx context.Context, f finder, late []int, findings []request.Finding) error {
	if len(late) == 0 {
		return nil
	}
	// No more is read than their attempts' time: a busy account creates more in a longer
	// one than one inquiry can read.
	from, to := q.asked[late[0]].began, q.asked[late[0]].since
	keys := make([]string, 0, len(late)+1)
	forgotten := false
	for _, i := range late {
		u := q.asked[i]
		if u.began.Before(from) {
			from = u.began
		}
		if u.since.After(to) {
			to = u.since
		}
		keys = append(keys, u.lookupKey)
		forgotten = forgotten || u.forgotten()
	}
	from, to = from.Add(-clockSlack), to.Add(q.settle+clockSlack)
	within := q.later.key != "" && q.later.settled.Add(clockSlack).Before(to)
	if within {
		keys = append(keys, q.later.key)
	}
	tasks, complete, err := f.Events(ctx, q.workspace, q.attribute, keys, from, to)
	byKey := map[string][]flex.Task{}
	for _, t := range tasks {
		byKey[t.Key] = append(byKey[t.Key], t)
	}
	caughtUp := within && len(byKey[q.later.key]) > 0
	lags := within && q.later.ripe && !caughtUp
	if err == nil && forgotten && q.later.key != "" && !within {
		caughtUp, err = q.shows(ctx, f, q.later)
	}
	for _, i := range late {
		u := q.asked[i]
		switch hits := byKey[u.lookupKey]; {
		case len(hits) > 0:
			findings[i] = adopt(ctx, f, hits, u.received)
		case err != nil:
			findings[i].Why = "not listed, but TaskRouter's event log could not be asked: " + err.Error()
		case !complete:
			findings[i].Why = "not listed, but TaskRouter's event log could not be read for all of the attempt's time"
		case lags:
			findings[i].Why = "not listed, but TaskRouter's event log lags: it does not show a task that was created later"
		case u.forgotten() && !caughtUp:
			findings[i].Why = "the task list no longer counts, and TaskRouter's event log alone proves nothing until it shows a task that was created later"
		case u.forgotten():
			findings[i] = request.Finding{Kind: request.Absent, Why: "TaskRouter's event log knows no task with its key, though it shows a later one; the task list no longer counts"}
		default:
			findings[i] = request.Finding{Kind: request.Absent, Why: "neither TaskRouter's tasks nor its event log know its key"}
		}
	}
	return err
}

// shows says whether the event log shows a creation.
func (q inquiry) shows(ctx context.Context, f finder, c creation) (bool, error) {
	tasks, _, err := f.Events(ctx, q.workspace, q.attribute, []string{c.key}, c.began.Add(-clockSlack), c.settled.Add(clockSlack))
	return len(tasks) > 0, err
}

// adopt reads the interaction that tasks with one key name; of several the oldest. A
// task that is older than the request, which was received at that time, is of a request
// that had the same id before and is forgotten: it is not this one's. Whether the call
// that it was for needs to be made again, a person decides.
func adopt(ctx context.Context, f finder, tasks []flex.Task, received time.Time) request.Finding {
	var first, foreign flex.Task
	var sids []string
	seen := map[string]bool{}
	for _, t := range tasks {
		if older(t.DateCreated, received) {
			foreign = t
			continue
		}
		if t.InteractionSID == "" {
			continue
		}
		earlier := !t.DateCreated.IsZero() && (first.DateCreated.IsZero() || t.DateCreated.Before(first.DateCreated))
		if first.InteractionSID == "" || earlier {
			first = t
		}
		if !seen[t.InteractionSID] {
			seen[t.InteractionSID] = true
			sids = append(sids, t.InteractionSID)
		}
	}
	switch {
	case first.InteractionSID != "":
	case foreign.TaskSID != "":
		return foreignTask(foreign, received)
	default:
		return request.Finding{TaskSID: tasks[0].TaskSID, Why: fmt.Sprintf("task %s carries its key but does not name its interaction", tasks[0].TaskSID)}
	}
	o := f.Fetch(ctx, first.InteractionSID)
	if o.Kind != flex.Created {
		return request.Finding{TaskSID: first.TaskSID, Why: fmt.Sprintf("task %s names interaction %s, which could not be read: %s", first.TaskSID, first.InteractionSID, o.Message)}
	}
	if first.DateCreated.IsZero() { // a list need not show it
		first.DateCreated = shownCreated(o)
		switch {
		case first.DateCreated.IsZero():
			return request.Finding{TaskSID: first.TaskSID, Why: fmt.Sprintf("task %s names interaction %s, but nothing shows when it was created", first.TaskSID, first.InteractionSID)}
		case older(first.DateCreated, received):
			return foreignTask(first, received)
		}
	}
	found := request.Finding{Kind: request.Found, Outcome: o, TaskSID: first.TaskSID}
	for _, sid := range sids {
		if sid != first.InteractionSID {
			found.Others = append(found.Others, sid)
		}
	}
	return found
}

// older says whether what was created then is of an earlier request than one that was
// received at that time; a zero time says nothing.
func older(created, received time.Time) bool {
	return !created.IsZero() && created.Add(clockSlack).Before(received)
}

// shownCreated is when the task of an interaction was created, as Flex shows it; zero: it
// does not say.
func shownCreated(o flex.Outcome) (at time.Time) {
	if _, routing := flex.Describe(o.Response); routing != nil && routing.DateCreated != nil {
		at, _ = time.Parse(time.RFC3339, *routing.DateCreated)
	}
	return at
}

// foreignTask is the finding of a task that is older than the request.
func foreignTask(t flex.Task, received time.Time) request.Finding {
	return request.Finding{TaskSID: t.TaskSID, Foreign: true, Why: fmt.Sprintf(
		"task %s, which names interaction %s, carries its key but was created at %s, before the request was received at %s: it is of an earlier request with this id",
		t.TaskSID, cmp.Or(t.InteractionSID, "none"), clock(t.DateCreated), clock(received))}
}
