package lookup

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"flexworker/internal/flex"
	"flexworker/internal/outbox/request"
)

// Finder is *flex.Client; tests put another in its place.
type Finder interface {
	SearchTasks(ctx context.Context, workspaceSID, attribute string, keys []string) ([]flex.Task, error)
	Events(ctx context.Context, workspaceSID, attribute string, keys []string, from, to time.Time) ([]flex.Task, bool, error)
	Fetch(ctx context.Context, sid string) flex.Outcome
}

// How far TaskRouter can be asked. Sources: TaskRouter's task states (a task is
// deleted five minutes after it ended) and event log (30 days).
const (
	TaskMemory = 5 * time.Minute
	logMemory  = 30 * 24 * time.Hour
	// ClockSlack is how far Postgres's clock and Twilio's may be apart.
	ClockSlack = 30 * time.Second
)

// A Batch is one round of asking: uncertain requests of one workspace, whose keys
// were sent under one attribute. All it needs to know of their attempts stands in their
// rows. The looker's own settings may be others than the sender's were: under another
// attribute, or for another time, nothing would be found, which must not pass for absence.
type Batch struct {
	Workspace string
	Attribute string
	Asked     []Input
	Waiting   bool // there is something to ask, be it now or when the fleet may search again
	// CanaryKey is a key that is known to exist there; "" for none. A search that
	// finds it has understood the question for all keys.
	CanaryKey string
	// Settle is the longest LOOKUP_SETTLE in force in the fleet.
	Settle time.Duration
	// Later is a creation after all of these attempts; its key is "" when none is known.
	Later Creation
}

// A Creation is an interaction that Flex said it had created, with a task in the
// batch's workspace and its key under the batch's attribute. The attempt began after
// any moment at which the batch's attempts could have had a task created. So a log that
// shows it has caught up with them. One that lags does not show it.
type Creation struct {
	Key            string
	Began, Settled time.Time
	Ripe           bool // as old as the settle time: it has to be in the log
}

// LookUp asks TaskRouter about all requests of the lookup batch: one search, then,
// for those whose absence would count now, one read of the event log. The error
// says why one of the two could not be asked; the findings hold all the same.
func (q Batch) LookUp(ctx context.Context, f Finder) ([]request.Finding, error) {
	findings := make([]request.Finding, len(q.Asked))
	tasks, err := f.SearchTasks(ctx, q.Workspace, q.Attribute, q.keys())
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
	for i, u := range q.Asked {
		switch hits := byKey[u.LookupKey]; {
		case len(hits) > 0:
			findings[i] = Adopt(ctx, f, hits, u.Received)
		case u.Age < q.Settle:
			findings[i].Why = "not listed yet; that proves nothing before the settle time is over"
		case u.Began.After(u.Since.Add(ClockSlack)):
			findings[i].Why = "not listed, but its attempt began later than it ended: the database's clock went back, and when it began is not known"
		case u.Lasted+LookupLimit+ClockSlack > logMemory:
			findings[i] = request.Finding{Hopeless: true, Why: "not listed, and its attempt is older than TaskRouter's event log"}
		case !conclusive && !u.Forgotten():
			findings[i] = request.Finding{Alone: true, Why: "not listed, but it was looked up together with others, and TaskRouter listed none of them: it is looked up alone next"}
		default:
			late = append(late, i)
		}
	}
	return findings, q.askEvents(ctx, f, late, findings)
}

// keys are what one search asks for.
func (q Batch) keys() []string {
	keys := make([]string, 0, len(q.Asked)+1)
	for _, u := range q.Asked {
		keys = append(keys, u.LookupKey)
	}
	if q.CanaryKey != "" && len(q.Asked) > 1 {
		keys = append(keys, q.CanaryKey)
	}
	return keys
}

// Forgotten says whether a task of that attempt may have ended and be deleted by now:
// it may have been created, and have ended, in the attempt's first moment, however long
// the attempt then took. Then the search says nothing and the event log alone decides.
// A lookup's own time is part of it.
func (u Input) Forgotten() bool { return u.Lasted+LookupLimit > TaskMemory }

// askEvents is the second witness, and later than five minutes the only one.
func (q Batch) askEvents(ctx context.Context, f Finder, late []int, findings []request.Finding) error {
	if len(late) == 0 {
		return nil
	}
	// No more is read than their attempts' time: a busy account creates more in a longer
	// one than one lookup batch can read.
	from, to := q.Asked[late[0]].Began, q.Asked[late[0]].Since
	keys := make([]string, 0, len(late)+1)
	forgotten := false
	for _, i := range late {
		u := q.Asked[i]
		if u.Began.Before(from) {
			from = u.Began
		}
		if u.Since.After(to) {
			to = u.Since
		}
		keys = append(keys, u.LookupKey)
		forgotten = forgotten || u.Forgotten()
	}
	from, to = from.Add(-ClockSlack), to.Add(q.Settle+ClockSlack)
	within := q.Later.Key != "" && q.Later.Settled.Add(ClockSlack).Before(to)
	if within {
		keys = append(keys, q.Later.Key)
	}
	tasks, complete, err := f.Events(ctx, q.Workspace, q.Attribute, keys, from, to)
	byKey := map[string][]flex.Task{}
	for _, t := range tasks {
		byKey[t.Key] = append(byKey[t.Key], t)
	}
	caughtUp := within && len(byKey[q.Later.Key]) > 0
	lags := within && q.Later.Ripe && !caughtUp
	if err == nil && forgotten && q.Later.Key != "" && !within {
		caughtUp, err = q.shows(ctx, f, q.Later)
	}
	for _, i := range late {
		u := q.Asked[i]
		switch hits := byKey[u.LookupKey]; {
		case len(hits) > 0:
			findings[i] = Adopt(ctx, f, hits, u.Received)
		case err != nil:
			findings[i].Why = "not listed, but TaskRouter's event log could not be asked: " + err.Error()
		case !complete:
			findings[i].Why = "not listed, but TaskRouter's event log could not be read for all of the attempt's time"
		case lags:
			findings[i].Why = "not listed, but TaskRouter's event log lags: it does not show a task that was created later"
		case u.Forgotten() && !caughtUp:
			findings[i].Why = "the task list no longer counts, and TaskRouter's event log alone proves nothing until it shows a task that was created later"
		case u.Forgotten():
			findings[i] = request.Finding{Kind: request.Absent, Why: "TaskRouter's event log knows no task with its key, though it shows a later one; the task list no longer counts"}
		default:
			findings[i] = request.Finding{Kind: request.Absent, Why: "neither TaskRouter's tasks nor its event log know its key"}
		}
	}
	return err
}

// shows says whether the event log shows a creation. Clocks are mostly less than a second apart: a busy account creates
// thousands of tasks within ClockSlack, each page of which is a call.
func (q Batch) shows(ctx context.Context, f Finder, c Creation) (bool, error) {
	for _, apart := range []time.Duration{time.Second, ClockSlack} {
		tasks, _, err := f.Events(ctx, q.Workspace, q.Attribute, []string{c.Key}, c.Began.Add(-apart), c.Settled.Add(apart))
		if err != nil || len(tasks) > 0 {
			return err == nil, err
		}
	}
	return false, nil
}

// Adopt reads the interaction that tasks with one key name; of several the oldest. A
// task that is older than the request, which was received at that time, is of a request
// that had the same id before and is forgotten: it is not this one's. Whether the call
// that it was for needs to be made again, a person decides.
func Adopt(ctx context.Context, f Finder, tasks []flex.Task, received time.Time) request.Finding {
	var first, foreign flex.Task
	var sids []string
	seen := map[string]bool{}
	for _, t := range tasks {
		if Older(t.DateCreated, received) {
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
		return ForeignTask(foreign, received)
	default:
		return request.Finding{TaskSID: tasks[0].TaskSID, Why: fmt.Sprintf("task %s carries its key but does not name its interaction", tasks[0].TaskSID)}
	}
	o := f.Fetch(ctx, first.InteractionSID)
	if o.Kind != flex.Created {
		return request.Finding{TaskSID: first.TaskSID, Why: fmt.Sprintf("task %s names interaction %s, which could not be read: %s", first.TaskSID, first.InteractionSID, o.Message)}
	}
	if first.DateCreated.IsZero() { // a list need not show it
		first.DateCreated = ShownCreated(o)
		switch {
		case first.DateCreated.IsZero():
			return request.Finding{TaskSID: first.TaskSID, Why: fmt.Sprintf("task %s names interaction %s, but nothing shows when it was created", first.TaskSID, first.InteractionSID)}
		case Older(first.DateCreated, received):
			return ForeignTask(first, received)
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

// Older says whether what was created then is of an earlier request than one that was
// received at that time; a zero time says nothing.
func Older(created, received time.Time) bool {
	return !created.IsZero() && created.Add(ClockSlack).Before(received)
}

// ShownCreated is when the task of an interaction was created, as Flex shows it; zero: it
// does not say.
func ShownCreated(o flex.Outcome) (at time.Time) {
	if _, routing := flex.Describe(o.Response); routing != nil && routing.DateCreated != nil {
		at, _ = time.Parse(time.RFC3339, *routing.DateCreated)
	}
	return at
}

// ForeignTask is the finding of a task that is older than the request.
func ForeignTask(t flex.Task, received time.Time) request.Finding {
	return request.Finding{TaskSID: t.TaskSID, Foreign: true, Why: fmt.Sprintf(
		"task %s, which names interaction %s, carries its key but was created at %s, before the request was received at %s: it is of an earlier request with this id",
		t.TaskSID, cmp.Or(t.InteractionSID, "none"), request.ShowTime(t.DateCreated), request.ShowTime(received))}
}
