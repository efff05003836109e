package flextest

import (
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// TaskRouter is how TaskRouter behaves. The zero value is as documented: tasks
// and events are there at once, three searches a second, a completed task stays
// for five minutes, lists show attributes. It can be replaced at any time and
// then holds for everything, also what happened before.
type TaskRouter struct {
	Lag      time.Duration `json:"lag"`       // until a task is listed; asking for its sid finds it at once
	EventLag time.Duration `json:"event_lag"` // until an event is listed
	After    time.Duration `json:"after"`     // a completed task is deleted after it; 0 is 5 min, below 0 at once
	Life     time.Duration `json:"life"`      // a task is completed by itself after it; 0: never

	Rate           int  `json:"rate"`            // searches a second; 0 is 3, below 0 no limit
	NullAttributes bool `json:"null_attributes"` // attributes are null in lists
	NoLists        bool `json:"no_lists"`        // IN and OR are not understood, so they match nothing
	Blind          bool `json:"blind"`           // lists of tasks are empty
	NoEvents       bool `json:"no_events"`       // lists of events are empty

	Trouble      Fault `json:"trouble"`       // met by every read of tasks
	EventTrouble Fault `json:"event_trouble"` // met by every read of events
}

// SetTaskRouter replaces how TaskRouter behaves.
func (s *Server) SetTaskRouter(set TaskRouter) {
	must([]Fault{set.Trouble, set.EventTrouble})
	s.taskRouter.Store(&set)
}

// TaskRouter returns how TaskRouter behaves now.
func (s *Server) TaskRouter() TaskRouter { return *s.taskRouter.Load() }

// forget is how long a completed task stays.
func (set *TaskRouter) forget() time.Duration {
	switch {
	case set.After == 0:
		return 5 * time.Minute
	case set.After < 0:
		return 0
	}
	return set.After
}

// limit is the rate of the searches, over the whole server.
type limit struct {
	mu     sync.Mutex
	recent []time.Time // searches of the last second that were let through
}

// take says whether one more search is within rate, and how many are left.
func (l *limit) take(rate int) (ok bool, left int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	l.recent = slices.DeleteFunc(l.recent, func(at time.Time) bool { return now.Sub(at) >= time.Second })
	if len(l.recent) >= rate {
		return false, 0
	}
	l.recent = append(l.recent, now)
	return true, rate - len(l.recent)
}

// askTaskRouter answers everything below /v1/Workspaces/.
func (s *Server) askTaskRouter(w http.ResponseWriter, r *http.Request) {
	workspace, rest, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/v1/Workspaces/"), "/")
	if r.Method != http.MethodGet {
		s.ledger.violate("TaskRouter: " + r.Method + " " + r.URL.Path)
		writeError(w, &refusal{http.StatusMethodNotAllowed, 20004, "Method not allowed"})
		return
	}
	if refused := s.admit(w, r); refused != nil {
		writeError(w, refused)
		return
	}
	exists := isSID("WS", workspace) && (s.cfg.Workspaces == nil || slices.Contains(s.cfg.Workspaces, workspace))
	task, one := strings.CutPrefix(rest, "Tasks/")
	switch {
	case exists && rest == "Tasks":
		s.search(w, r, workspace)
	case exists && rest == "Workflows":
		s.workflows(w)
	case exists && rest == "Events":
		s.listEvents(w, r, workspace)
	case exists && one:
		s.show(w, r, workspace, task)
	default:
		notFound(w, strings.TrimPrefix(r.URL.Path, "/v1"))
	}
}

// search answers GET .../Tasks.
func (s *Server) search(w http.ResponseWriter, r *http.Request, workspace string) {
	s.ledger.count(&s.ledger.calls.Searched)
	set, query := s.taskRouter.Load(), r.URL.Query()
	size, after, refused := s.readSearch(query)
	if refused != nil {
		writeError(w, refused)
		return
	}
	filtered := query.Has("EvaluateTaskAttributes")
	if rate := set.Rate; filtered && rate >= 0 {
		if rate == 0 {
			rate = 3
		}
		ok, left := s.limit.take(rate)
		w.Header().Set("X-Rate-Limit-Limit", strconv.Itoa(rate))
		w.Header().Set("X-Rate-Limit-Remaining", strconv.Itoa(left))
		w.Header().Set("X-Rate-Limit-Config", "Task-List-EvaluateTaskAttributes")
		if !ok {
			s.ledger.count(&s.ledger.calls.Limited)
			writeError(w, &refusal{http.StatusTooManyRequests, 20429, "Too Many Requests"})
			return
		}
	}
	var filter *expression
	if filtered {
		e := parse(query.Get("EvaluateTaskAttributes"))
		if set.NoLists && !e.single() {
			e = nil
		}
		filter = &e
	}
	s.trouble(w, r, must([]Fault{set.Trouble})[0], s.list(workspace, filter, query, size, after))
}

// show answers GET .../Tasks/{WT}.
func (s *Server) show(w http.ResponseWriter, r *http.Request, workspace, sid string) {
	s.ledger.count(&s.ledger.calls.Shown)
	set, now := s.taskRouter.Load(), time.Now().UnixNano()
	s.ledger.mu.Lock()
	var body []byte
	if n := s.ledger.number("WT", sid); n > 0 && n <= uint64(len(s.ledger.tasks)) {
		if t := s.ledger.tasks[n-1]; t != nil && t.wish.workspace == workspace && !t.gone(set, now) {
			body = s.ledger.appendTask(nil, t, set, now, true)
		}
	}
	s.ledger.mu.Unlock()
	plan := must([]Fault{set.Trouble})[0]
	if body == nil && plan.what == "" {
		notFound(w, strings.TrimPrefix(r.URL.Path, "/v1"))
		return
	}
	if body == nil {
		body = []byte(nothing)
	}
	s.trouble(w, r, plan, body)
}
