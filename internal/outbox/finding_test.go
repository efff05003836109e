package outbox

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"flexworker/internal/flex"
	"flexworker/internal/outbox/lookup"
	"flexworker/internal/outbox/request"
	"flexworker/internal/testing/pgtest"
)

// logReader is a TaskRouter that lists nothing, and whose log can be read as
// far as one lookup batch may: 32,000 events, of an account that creates perSecond.
type logReader struct{ perSecond float64 }

func (logReader) SearchTasks(context.Context, string, string, []string) ([]flex.Task, error) {
	return nil, nil
}

func (logReader) Fetch(context.Context, string) flex.Outcome { return flex.Outcome{} }

func (l logReader) Events(_ context.Context, _, _ string, keys []string, from, to time.Time) ([]flex.Task, bool, error) {
	if now := time.Now(); to.After(now) {
		to = now
	}
	var shown []flex.Task
	if slices.Contains(keys, "later") {
		shown = []flex.Task{{Key: "later"}}
	}
	return shown, to.Sub(from).Seconds()*l.perSecond < 32_000, nil
}

// TestAbsenceIsProvedOnABusyAccount: the log is read for the time of the
// attempt, not for all that was created since. Found by the soak, where requests
// that were looked up some minutes late could never be proved absent and all
// came to a person.
func TestAbsenceIsProvedOnABusyAccount(t *testing.T) {
	t.Parallel()
	for _, age := range []time.Duration{time.Minute, 4 * time.Minute, 20 * time.Minute} {
		q := lookup.Batch{Workspace: "WS", Settle: time.Minute,
			Later: lookup.Creation{Key: "later", Began: time.Now().Add(65*time.Second - age), Settled: time.Now().Add(66*time.Second - age)},
			Asked: []lookup.Input{{LookupKey: "key", Began: time.Now().Add(-age - 20*time.Second), Since: time.Now().Add(-age), Age: age, Lasted: age + 20*time.Second}}}
		findings, err := q.LookUp(t.Context(), logReader{perSecond: 120})
		if err != nil || findings[0].Kind != request.Absent {
			t.Errorf("%v after the attempt: %v (%s), %v; want absent", age, findings[0].Kind, findings[0].Why, err)
		}
	}
}

// laterLog is a log that shows the later creation at its time, and keeps the windows in which that was looked for.
type laterLog struct {
	logReader
	at    time.Time
	asked []time.Duration
}

func (l *laterLog) Events(_ context.Context, _, _ string, keys []string, from, to time.Time) ([]flex.Task, bool, error) {
	if !slices.Contains(keys, "later") {
		return nil, true, nil
	}
	l.asked = append(l.asked, to.Sub(from))
	if l.at.Before(from) || l.at.After(to) {
		return nil, true, nil
	}
	return []flex.Task{{Key: "later"}}, true, nil
}

// TestLaterCreationIsSoughtNearby: a log that need not be searched for all of ClockSlack is not: each page of it is a call.
func TestLaterCreationIsSoughtNearby(t *testing.T) {
	t.Parallel()
	began, took := time.Now().Add(-15*time.Minute), 2*time.Second
	near, far := took+2*time.Second, took+2*lookup.ClockSlack
	for _, tt := range []struct {
		apart time.Duration // Twilio's clock, from Postgres's
		asked []time.Duration
		kind  request.FindingKind
	}{
		{0, []time.Duration{near}, request.Absent},
		{10 * time.Second, []time.Duration{near, far}, request.Absent},
		{-20 * time.Second, []time.Duration{near, far}, request.Absent},
		{time.Minute, []time.Duration{near, far}, request.Unclear},
	} {
		q := lookup.Batch{Workspace: "WS", Settle: time.Minute, Later: lookup.Creation{Key: "later", Began: began, Settled: began.Add(took)},
			Asked: []lookup.Input{{LookupKey: "key", Began: began.Add(-5 * time.Minute), Since: began.Add(-5*time.Minute + time.Second), Age: 20 * time.Minute, Lasted: 20 * time.Minute}}}
		log := &laterLog{at: began.Add(time.Second + tt.apart)}
		findings, err := q.LookUp(t.Context(), log)
		if err != nil || findings[0].Kind != tt.kind || !slices.Equal(log.asked, tt.asked) {
			t.Errorf("clocks %v apart: %v (%s), %v, asked for %v; want %v, %v", tt.apart, findings[0].Kind, findings[0].Why, err, log.asked, tt.kind, tt.asked)
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
			mustAdd(t, s, "l", 1, func(e *request.Event) { e.LookupKey = "5f2c9a7e41d84b0c9e6d3a1b7c8f0e22" })
			if _, err := s.record(t.Context(), told(mustClaim(t, s, 1)[0], flex.Outcome{ErrorKind: "timeout"})); err != nil {
				t.Fatal(err)
			}
			pgtest.Exec(t, s.pool, `UPDATE outbox SET due_at = now() - interval '1 s', uncertain_since = now() - interval '2 minutes', attempt_began_at = now() - interval '2 minutes'`)
			r := &lookup.Resolver{Requests: s.Lookups, Results: s.Results, Due: s.Due, Flex: f, Policy: testPolicy, Log: logger(t), Counters: &lookup.Counters{}}
			if _, err := r.Round(t.Context()); err != nil {
				t.Fatal(err)
			}
			r.Ended.Wait()
			if rest := pgtest.One[int](t, s.pool, `SELECT extract(epoch FROM lookup_at - clock_timestamp())::int FROM outbox_gate`); rest < 50 {
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
		f := lookup.Adopt(t.Context(), shower{}, tasks, at)
		if f.Kind != request.Found || f.TaskSID != "WTKDfirst" || len(f.Others) != 2 {
			t.Errorf("%+v: %s is adopted, %v left", tasks, f.TaskSID, f.Others)
		}
	}
	if f := lookup.Adopt(t.Context(), shower{created: at}, []flex.Task{undated}, at); f.Kind != request.Found || f.TaskSID != "WTKDundated" {
		t.Errorf("%+v", f)
	}
}

// TestTaskOfAnEarlierRequest: an id that is used again after RETENTION finds the task of
// the request that had it before. That is not this one's interaction, whether the list or
// the interaction says when it was created. Where nothing does, it is not adopted either.
func TestTaskOfAnEarlierRequest(t *testing.T) {
	t.Parallel()
	received := time.Date(2026, 11, 22, 3, 0, 0, 0, time.UTC)
	old, young := received.Add(-26*time.Hour), received.Add(time.Second)
	task := func(sid string, created time.Time) flex.Task {
		return flex.Task{TaskSID: "WT" + sid, InteractionSID: sid, DateCreated: created}
	}
	for name, tt := range map[string]struct {
		tasks   []flex.Task
		shows   time.Time
		adopted string
		foreign bool
	}{
		"old":                          {[]flex.Task{task("KD1", old)}, young, "", true},
		"old, without its interaction": {[]flex.Task{task("", old)}, young, "", true},
		"old and new":                  {[]flex.Task{task("KD1", old), task("KD2", young)}, young, "KD2", false},
		"within the clocks' slack":     {[]flex.Task{task("KD1", received.Add(-lookup.ClockSlack))}, young, "KD1", false},
		"undated, shown old":           {[]flex.Task{task("KD1", time.Time{})}, old, "", true},
		"undated, shown new":           {[]flex.Task{task("KD1", time.Time{})}, young, "KD1", false},
		"undated":                      {[]flex.Task{task("KD1", time.Time{})}, time.Time{}, "", false},
	} {
		f := lookup.Adopt(t.Context(), shower{created: tt.shows}, tt.tasks, received)
		if f.Outcome.InteractionSID != tt.adopted || (f.Kind == request.Found) != (tt.adopted != "") || f.Foreign != tt.foreign || len(f.Others) > 0 {
			t.Errorf("%s: %+v", name, f)
		}
		if f.Foreign && (!strings.Contains(f.Why, "KD1") && tt.tasks[0].InteractionSID != "" || !strings.Contains(f.Why, tt.tasks[0].TaskSID)) {
			t.Errorf("%s: %q names neither task nor interaction", name, f.Why)
		}
		for _, policy := range []request.Undecided{request.Hold, request.Retry, request.Fail} {
			p := testPolicy
			p.Settle, p.Undecided = time.Minute, policy
			early := p.AfterLookup(request.LookupInput{Age: time.Second, Askable: true}, f, 0)
			late := p.AfterLookup(request.LookupInput{Age: time.Hour, Askable: true}, f, 0)
			if tt.foreign && (early.Person || early.To != request.Uncertain || !late.Person || late.To != request.Uncertain) {
				t.Errorf("%s, policy %s: %+v, then %+v; want a person, once the settle time is over", name, policy, early, late)
			}
		}
	}
}

// shower is a Flex that shows every interaction, created at that time; zero: it does
// not say when.
type shower struct {
	lookup.Finder
	created time.Time
}

func (s shower) Fetch(_ context.Context, sid string) flex.Outcome {
	o := flex.Outcome{Kind: flex.Created, InteractionSID: sid}
	if !s.created.IsZero() {
		o.Response = fmt.Appendf(nil, `{"sid":%q,"routing":{"properties":{"date_created":%q}}}`, sid, s.created.Format(time.RFC3339))
	}
	return o
}
