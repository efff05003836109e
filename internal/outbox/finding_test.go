package outbox

import (
	"context"
	"testing"
	"time"

	"flexworker/internal/flex"
)

// logReader is a TaskRouter that lists nothing, and whose log can be read as
// far as one inquiry may: 32,000 events, of an account that creates perSecond.
type logReader struct{ perSecond float64 }

func (logReader) SearchTasks(context.Context, string, string, []string) ([]flex.Task, error) {
	return nil, nil
}

func (logReader) Fetch(context.Context, string) flex.Outcome { return flex.Outcome{} }

func (l logReader) Events(_ context.Context, _, _ string, _ []string, from, to time.Time) ([]flex.Task, bool, error) {
	if now := time.Now(); to.After(now) {
		to = now
	}
	return nil, to.Sub(from).Seconds()*l.perSecond < 32_000, nil
}

// TestAbsenceIsProvedOnABusyAccount: the log is read for the time of the
// attempt, not for all that was created since. Found by the soak, where requests
// that were looked up some minutes late could never be proved absent and all
// came to a person.
func TestAbsenceIsProvedOnABusyAccount(t *testing.T) {
	t.Parallel()
	for _, age := range []time.Duration{time.Minute, 4 * time.Minute, 20 * time.Minute} {
		q := inquiry{workspace: "WS", settle: time.Minute, lease: 20 * time.Second,
			asked: []uncertain{{lookupKey: "key", since: time.Now().Add(-age), age: age}}}
		findings, err := q.lookUp(t.Context(), logReader{perSecond: 120})
		if err != nil || findings[0].Kind != Absent {
			t.Errorf("%v after the attempt: %v (%s), %v; want absent", age, findings[0].Kind, findings[0].Why, err)
		}
	}
}

// limited is a TaskRouter that says 429 to one kind of question.
type limited struct{ search, events error }

func (l limited) SearchTasks(context.Context, string, string, []string) ([]flex.Task, error) {
	return nil, l.search
}

func (l limited) Events(context.Context, string, string, []string, time.Time, time.Time) ([]flex.Task, bool, error) {
	return nil, false, l.events
}

func (limited) Fetch(context.Context, string) flex.Outcome { return flex.Outcome{} }

// TestSlowDown: the whole fleet obeys TaskRouter's 429, whichever question met it.
func TestSlowDown(t *testing.T) {
	t.Parallel()
	err := &flex.LookupError{Limited: true, RetryAfter: time.Minute}
	for name, f := range map[string]limited{"search": {search: err}, "events": {events: err}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStore(t)
			mustAdd(t, s, "l", 1, func(e *Event) { e.LookupKey = "5f2c9a7e41d84b0c9e6d3a1b7c8f0e22" })
			if _, err := s.record(t.Context(), told(mustClaim(t, s, 1)[0], flex.Outcome{ErrorKind: "timeout"})); err != nil {
				t.Fatal(err)
			}
			exec(t, s.pool, `UPDATE outbox SET due_at = now() - interval '1 s', uncertain_since = now() - interval '2 minutes'`)
			r := &Resolver{Store: s, Flex: f, Policy: testPolicy, Log: logger(t), Counters: &Counters{}}
			if _, err := r.turn(t.Context()); err != nil {
				t.Fatal(err)
			}
			if rest := one[int](t, s.pool, `SELECT extract(epoch FROM lookup_at - clock_timestamp())::int FROM outbox_gate`); rest < 50 {
				t.Errorf("the fleet searches again in %d s", rest)
			}
		})
	}
}

// TestOldestIsAdopted: of several interactions, the oldest that has a date.
func TestOldestIsAdopted(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 11, 22, 3, 0, 0, 0, time.UTC)
	task := func(sid string, created time.Time) flex.Task {
		return flex.Task{TaskSID: "WT" + sid, InteractionSID: sid, DateCreated: created}
	}
	undated, first, second := task("KDundated", time.Time{}), task("KDfirst", at), task("KDsecond", at.Add(time.Second))
	for _, tasks := range [][]flex.Task{{undated, first, second}, {second, first, undated}, {first, undated, second}} {
		f := adopt(t.Context(), shower{}, tasks)
		if f.Kind != Found || f.TaskSID != "WTKDfirst" || len(f.Others) != 2 {
			t.Errorf("%+v: %s is adopted, %v left", tasks, f.TaskSID, f.Others)
		}
	}
	if f := adopt(t.Context(), shower{}, []flex.Task{undated}); f.Kind != Found || f.TaskSID != "WTKDundated" {
		t.Errorf("%+v", f)
	}
}

// shower is a Flex that shows every interaction.
type shower struct{ finder }

func (shower) Fetch(_ context.Context, sid string) flex.Outcome {
	return flex.Outcome{Kind: flex.Created, InteractionSID: sid}
}
