package lookup

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"testing"
	"time"

	"flexworker/internal/flex"
)

// TestHearing: when those that wait for a person are looked up at once.
func TestHearing(t *testing.T) {
	t.Parallel()
	here, there := scope{"WS1", "a"}, scope{"WS1", "b"}
	var well error
	away, limited := errors.New("away"), error(&flex.LookupError{Limited: true})
	list := func(err error) map[witness]error { return map[witness]error{taskList: err} }
	both := func(list, log error) map[witness]error { return map[witness]error{taskList: list, eventLog: log} }
	type answer struct {
		after   time.Duration // the one before
		of      scope
		answers map[witness]error
		wake    bool
	}
	for name, story := range map[string][]answer{
		"the first answer of a process": {{0, here, list(well), true}, {time.Hour, here, list(well), false}},
		"mute, and well again":          {{0, here, list(away), false}, {time.Minute, here, list(well), true}},
		"flapping": {
			{0, here, list(well), true},
			{time.Minute, here, list(away), false}, {time.Minute, here, list(well), false},
			{time.Minute, here, list(away), false}, {time.Minute, here, list(well), false},
			{6 * time.Minute, here, list(well), true}, // it is still owed
			{time.Minute, here, list(away), false}, {time.Minute, here, list(well), false}},
		"another attribute fails": {
			{0, here, list(well), true}, {0, there, list(away), false},
			{11 * time.Minute, here, list(well), false}, {0, there, list(well), true}},
		"the event log fails, and a lookup that does not ask it succeeds": {
			{0, here, both(well, away), false}, {time.Minute, here, list(well), false},
			{time.Minute, here, both(well, well), true}},
		"the list fails, so that the event log is not asked": {
			{0, here, both(well, well), true},
			{time.Minute, here, list(away), false}, {11 * time.Minute, here, both(well, well), true}},
		"a 429 is an answer": {
			{0, here, list(well), true}, {11 * time.Minute, here, list(limited), false}, {time.Second, here, list(well), false}},
		"a 429 after an outage shows nothing": {
			{0, here, list(away), false}, {time.Minute, here, list(limited), false}, {time.Second, here, list(well), true}},
		"a 429 of the event log alone": {
			{0, here, both(well, limited), true}, {11 * time.Minute, here, both(well, limited), false}},
		"forgotten": {{0, here, list(well), true}, {21 * time.Minute, there, list(well), true}, {0, here, list(well), true}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var h hearing
			now := time.Now()
			for i, a := range story {
				now = now.Add(a.after)
				if wake := h.take(a.of, a.answers, now); wake != a.wake {
					t.Errorf("answer %d: wakes %t", i+1, wake)
				}
			}
		})
	}
}

// TestHearingIsBounded: more scopes than are remembered are not woken, rather than woken at
// each answer. Once others are forgotten there is room.
func TestHearingIsBounded(t *testing.T) {
	t.Parallel()
	var h hearing
	now := time.Now()
	woken := 0
	for round := range 2 {
		for i := range mostScopes + 500 {
			if h.take(scope{fmt.Sprint("WS", i), "a"}, map[witness]error{taskList: nil}, now.Add(time.Duration(round)*time.Minute)) {
				woken++
			}
		}
	}
	if woken != mostScopes || len(h.scopes) != mostScopes {
		t.Errorf("%d woken, %d remembered", woken, len(h.scopes))
	}
	if !h.take(scope{"new", "a"}, map[witness]error{taskList: nil}, now.Add(forgetAfter+2*time.Minute)) || len(h.scopes) != 1 {
		t.Errorf("%d are remembered after %v", len(h.scopes), forgetAfter)
	}
}

// TestHearer: one lookup asks both witnesses, and each is heard for itself.
func TestHearer(t *testing.T) {
	t.Parallel()
	down := errors.New("down")
	for name, tt := range map[string]struct {
		age  time.Duration
		want map[witness]error
	}{
		"before the settle time is over": {0, map[witness]error{taskList: nil}},
		"after":                          {2 * time.Minute, map[witness]error{taskList: nil, eventLog: down}},
	} {
		now := time.Now()
		q := Batch{Workspace: "WS1", Attribute: "a", Settle: time.Minute,
			Asked: []Input{{LookupKey: "k", Began: now.Add(-tt.age), Since: now.Add(-tt.age), Lasted: tt.age, Age: tt.age}}}
		h := hearer{noLog{down}, map[witness]error{}}
		_, _ = q.LookUp(t.Context(), h) // what it finds is not the point
		if !maps.Equal(h.answers, tt.want) {
			t.Errorf("%s: %v, want %v", name, h.answers, tt.want)
		}
	}
}

// noLog is a TaskRouter that lists no task, and whose event log fails.
type noLog struct{ err error }

func (noLog) SearchTasks(context.Context, string, string, []string) ([]flex.Task, error) {
	return nil, nil
}

func (l noLog) Events(context.Context, string, string, []string, time.Time, time.Time) ([]flex.Task, bool, error) {
	return nil, false, l.err
}

func (noLog) Fetch(context.Context, string) flex.Outcome { return flex.Outcome{} }
