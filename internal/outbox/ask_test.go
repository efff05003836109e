package outbox

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"flexworker/internal/flex"
	"flexworker/internal/outbox/lookup"
	"flexworker/internal/outbox/operator"
	"flexworker/internal/testing/pgtest"
)

// TestAskProvesWhatALookupProves: a person who says that there is nothing is told that this
// is proved exactly where a lookup would have taken it for a proof.
func TestAskProvesWhatALookupProves(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		age          time.Duration
		later, shown bool // there is a later creation; the log shows it
		answered     bool
		unreadable   bool
		limited      bool          // TaskRouter answers 429 at first
		settle       time.Duration // of another replica
		absent       bool
		says         string
	}{
		"as a lookup would":           {age: 2 * time.Minute, absent: true, says: "neither TaskRouter's tasks nor its event log"},
		"when it is its turn":         {age: 2 * time.Minute, limited: true, absent: true, says: "neither TaskRouter's tasks nor its event log"},
		"before the settle time":      {age: 30 * time.Second, says: "before the settle time is over"},
		"another's settle time":       {age: 2 * time.Minute, settle: 3 * time.Minute, says: "before the settle time is over"},
		"the list no longer counts":   {age: 6 * time.Minute, says: "the task list no longer counts"},
		"and the log lags":            {age: 6 * time.Minute, later: true, says: "the task list no longer counts"},
		"and the log has caught up":   {age: 6 * time.Minute, later: true, shown: true, absent: true, says: "the task list no longer counts"},
		"older than the log":          {age: 40 * 24 * time.Hour, later: true, shown: true, says: "older than TaskRouter's event log"},
		"a 2xx without a sid":         {age: 2 * time.Minute, answered: true, says: "2xx, but no sid in it could be read"},
		"the log cannot be read":      {age: 2 * time.Minute, unreadable: true, says: "could not be read for all of the attempt's time"},
		"nearly too old for the list": {age: 4 * time.Minute, absent: true, says: "neither TaskRouter's tasks nor its event log"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStore(t)
			id := mustAdd(t, s, "asked", 1, keyed)[0]
			s.timeout(t, func(o *flex.Outcome) { o.Answered = tt.answered })
			s.grow(t, tt.age)
			var shown []flex.Task
			if tt.later {
				later := event("later", 7, keyed)
				settle(t, s, later, good)
				if tt.shown {
					shown = append(shown, flex.Task{TaskSID: "WT7", Key: later.LookupKey, InteractionSID: sidA, DateCreated: time.Now()})
				}
			}
			if tt.settle > 0 {
				pgtest.Exec(t, s.pool, `INSERT INTO outbox_replicas (name, version, seen_at, state, lookup_settle, flex_timeout, flex_rate, uncertain_policy, retention)
					VALUES ('other', 'v', clock_timestamp(), 'ok', $1, '15 s', 5, 'hold', '720 h')`, tt.settle)
			}
			router := taskRouter{log: logOf(shown...)}
			if tt.unreadable {
				router.log = unreadable
			}
			if searches := 0; tt.limited {
				router.search = func(context.Context, string, string, []string) ([]flex.Task, error) {
					if searches++; searches < 3 {
						return nil, &flex.LookupError{Limited: true, RetryAfter: time.Millisecond, ErrorKind: "http_429"}
					}
					return nil, nil
				}
			}
			e, absent := s.asked(t, id, router)
			if said := strings.Join(e.Said, "\n"); absent != tt.absent || len(e.Found) > 0 || !strings.Contains(said, tt.says) || !strings.Contains(said, "finds nothing.") {
				t.Errorf("absent %t, found %v, want absent %t and %q:\n%s", absent, e.Found, tt.absent, tt.says, said)
			}
			desk := s.asking(router)
			d, err := desk.Show(t.Context(), id)
			if err != nil {
				t.Fatal(err)
			}
			// An answer that is not whole does not say that there is nothing.
			if now, err := desk.Ask(t.Context(), d); err != nil || now.Nothing == tt.unreadable {
				t.Errorf("nothing is found: %t, %v", now.Nothing, err)
			}
		})
	}
}

// TestAskLeavesOutAnEarlierRequest: a task that is older than the request, which carries its
// id's key, is of an earlier request. That is said. It neither exists as this one, nor
// keeps its absence from being proved.
func TestAskLeavesOutAnEarlierRequest(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	id := mustAdd(t, s, "reused", 1, keyed)[0]
	s.timeout(t)
	s.grow(t, 2*time.Minute)
	d, err := s.desk().Show(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	old := flex.Task{TaskSID: "WT0", Key: *d.LookupKey, InteractionSID: sidB, DateCreated: d.ReceivedAt.Add(-time.Hour)}
	young := flex.Task{TaskSID: "WT1", Key: *d.LookupKey, InteractionSID: sidA, DateCreated: d.ReceivedAt.Add(time.Second)}
	for name, tt := range map[string]struct {
		listed, logged []flex.Task
		found, absent  bool
	}{
		"listed":                  {listed: []flex.Task{old}, absent: true},
		"in the log":              {logged: []flex.Task{old}, absent: true},
		"listed, and its own":     {listed: []flex.Task{old, young}, found: true},
		"in the log, and its own": {listed: []flex.Task{old}, logged: []flex.Task{old, young}, found: true},
	} {
		e, absent := s.asked(t, id, taskRouter{
			search: listing(tt.listed...),
			log:    func([]string, time.Time, time.Time) ([]flex.Task, bool, error) { return tt.logged, true, nil },
		})
		said := strings.Join(e.Said, "\n")
		if absent != tt.absent || slices.Contains(e.Found, sidA) != tt.found || slices.Contains(e.Found, sidB) ||
			!strings.Contains(said, "WT0") || !strings.Contains(said, "it is of an earlier request with this id") {
			t.Errorf("%s: absent %t, found %v:\n%s", name, absent, e.Found, said)
		}
	}
}

// listing is a task list of these tasks.
func listing(tasks ...flex.Task) func(context.Context, string, string, []string) ([]flex.Task, error) {
	return func(context.Context, string, string, []string) ([]flex.Task, error) { return tasks, nil }
}

// asking is a Flex that answers a lookup's questions alone.
type asking struct {
	lookup.Finder
}

func (asking) Channels(context.Context, string) ([]flex.ChannelState, error) {
	return nil, errors.ErrUnsupported
}
func (asking) CloseChannel(context.Context, string, string) flex.Outcome { return flex.Outcome{} }

// asking is a desk that asks a router.
func (s *Store) asking(router lookup.Finder) *operator.Desk {
	return operator.NewDesk(s.pool, operator.Caller{Name: "ann@desk", Right: operator.MayAct}, func() (operator.Flex, time.Duration, error) {
		return asking{router}, time.Minute, nil
	})
}

// asked is what a person who says that a request has no interaction is told, and whether that is taken for proved.
func (s *Store) asked(t *testing.T, id string, router lookup.Finder) (r operator.Resolution, proved bool) {
	t.Helper()
	pgtest.Exec(t, s.pool, `UPDATE outbox SET for_person_since = clock_timestamp() WHERE request_id = $1`, id)
	row := s.row(t, id)
	r, err := s.asking(router).Preview(t.Context(), operator.Act{Why: "a test", Attempt: &row.Attempt}, id, operator.Decision{Absent: true})
	if err != nil && !errors.Is(err, operator.ErrExists) && !errors.Is(err, operator.ErrUnproved) {
		t.Fatal(err)
	}
	return r, err == nil
}
