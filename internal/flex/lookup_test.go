package flex

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"
)

const other = "0123456789abcdef0123456789abcdef"

// aTask is a task resource as TaskRouter lists it; attributes is raw JSON.
func aTask(n int, attributes string) string {
	return fmt.Sprintf(`{"sid":"WT%032d","assignment_status":"reserved","date_created":"2026-11-22T12:00:00Z","attributes":%s}`, n, attributes)
}

// text is s as a JSON string.
func text(s string) string {
	b, _ := json.Marshal(s)
	return string(b)
}

func withKey(k string) string {
	return text(`{"interaction_request":"` + k + `","flexInteractionSid":"` + kd + `"}`)
}

func TestSearchTasks(t *testing.T) {
	t.Parallel()
	found := Task{TaskSID: "WT00000000000000000000000000000001", Key: key, InteractionSID: kd, AssignmentStatus: "reserved",
		DateCreated: time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)}
	second := found
	second.TaskSID = "WT00000000000000000000000000000002"
	nameless := found
	nameless.InteractionSID = ""
	const tasks = "/v1/Workspaces/" + ws + "/Tasks"
	for _, tt := range []struct {
		name  string
		keys  []string
		pages map[string]string // by PageToken, or by the sid of a single task
		want  []Task
		calls int
		kind  string // of the error
	}{
		{"none", []string{key}, map[string]string{"": `{"tasks":[],"meta":{"next_page_url":null}}`}, nil, 1, ""},
		{"one", []string{key}, map[string]string{"": `{"tasks":[` + aTask(1, withKey(key)) + `]}`}, []Task{found}, 1, ""},
		{"attributes as an object", []string{key}, map[string]string{"": `{"tasks":[` + aTask(1, `{"interaction_request":"`+key+`","flexInteractionSid":"`+kd+`"}`) + `]}`}, []Task{found}, 1, ""},
		{"conversation_id instead", []string{key}, map[string]string{"": `{"tasks":[` + aTask(1, text(`{"interaction_request":"`+key+`","flexInteractionSid":"x","conversations":{"conversation_id":"`+kd+`"}}`)) + `]}`}, []Task{found}, 1, ""},
		{"no interaction", []string{key}, map[string]string{"": `{"tasks":[` + aTask(1, text(`{"interaction_request":"`+key+`","conversations":{"conversation_id":"CH1"}}`)) + `]}`}, []Task{nameless}, 1, ""},
		{"the filter was ignored", []string{key}, map[string]string{"": `{"tasks":[` + aTask(7, withKey(other)) + `,` + aTask(1, withKey(key)) + `]}`}, []Task{found}, 1, ""},
		{"several keys", []string{key, other}, map[string]string{"": `{"tasks":[` + aTask(1, withKey(key)) + `]}`}, []Task{found}, 1, ""},
		{"null attributes", []string{key}, map[string]string{"": `{"tasks":[` + aTask(1, `null`) + `]}`, found.TaskSID: aTask(1, withKey(key))}, []Task{found}, 2, ""},
		{"attributes without the key", []string{key}, map[string]string{"": `{"tasks":[` + aTask(1, `"{}"`) + `]}`, found.TaskSID: aTask(1, `"{}"`)}, nil, 2, ""},
		{"two pages", []string{key}, map[string]string{
			"":       `{"tasks":[` + aTask(1, withKey(key)) + `],"meta":{"next_page_url":"https://evil.test/x?Page=1&PageToken=PT+1%2F2"}}`,
			"PT 1/2": `{"tasks":[` + aTask(2, withKey(key)) + `],"meta":{"next_page_url":null}}`}, []Task{found, second}, 2, ""},
		{"pages without end", []string{key}, map[string]string{
			"":  `{"tasks":[],"meta":{"next_page_url":"https://h/?PageToken=a"}}`,
			"a": `{"tasks":[],"meta":{"next_page_url":"https://h/?PageToken=b"}}`,
			"b": `{"tasks":[],"meta":{"next_page_url":"https://h/?PageToken=a"}}`}, nil, maxPages, "too_many"},
		{"the same page again", []string{key}, map[string]string{
			"":  `{"tasks":[],"meta":{"next_page_url":"https://h/?PageToken=a"}}`,
			"a": `{"tasks":[],"meta":{"next_page_url":"https://h/?PageToken=a"}}`}, nil, 2, "answer"},
		{"a next page without token", []string{key}, map[string]string{"": `{"tasks":[],"meta":{"next_page_url":"https://h/?Page=1"}}`}, nil, 1, "answer"},
		{"a task that is gone", []string{key}, map[string]string{"": `{"tasks":[` + aTask(1, `null`) + `]}`}, nil, 2, "http_404"},
		{"a task without a sid", []string{key}, map[string]string{"": `{"tasks":[{"sid":"../../x"}]}`}, nil, 1, "answer"},
		{"too many without attributes", []string{key}, map[string]string{"": `{"tasks":[` + strings.Repeat(aTask(1, `null`)+",", 30) + aTask(1, `null`) + `]}`,
			found.TaskSID: aTask(1, `"{}"`)}, nil, 1 + maxSingles, "too_many"},
		{"a single task cut", []string{key}, map[string]string{"": `{"tasks":[` + aTask(1, `null`) + `]}`, found.TaskSID: strings.TrimSuffix(aTask(1, withKey(key)), "}")}, nil, 2, "answer"},
		{"a single task without attributes", []string{key}, map[string]string{"": `{"tasks":[` + aTask(1, `null`) + `]}`, found.TaskSID: aTask(1, `null`)}, nil, 2, "answer"},
		{"another single task", []string{key}, map[string]string{"": `{"tasks":[` + aTask(1, `null`) + `]}`, found.TaskSID: aTask(2, `"{}"`)}, nil, 2, "answer"},
		{"no list", []string{key}, map[string]string{"": `{"sid":"` + kd + `"}`}, nil, 1, "answer"},
		{"null for a list", []string{key}, map[string]string{"": `{"tasks":null}`}, nil, 1, "answer"},
		{"no JSON", []string{key}, map[string]string{"": `<html>`}, nil, 1, "answer"},
		{"no keys", nil, nil, nil, 0, "request"},
		{"a key with a quote", []string{`x" OR "" == "`}, nil, nil, 0, "request"},
		{"too many keys", slices.Repeat([]string{key}, MaxKeys+1), nil, nil, 0, "request"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			calls := 0
			s := serve(t, func(w http.ResponseWriter, r *http.Request) {
				calls++
				page := r.URL.Query().Get("PageToken")
				if sid, single := strings.CutPrefix(r.URL.Path, tasks+"/"); single {
					page = sid
				} else {
					checkSearch(t, r, tt.keys)
				}
				body, ok := tt.pages[page]
				if !ok {
					w.WriteHeader(404)
				}
				io.WriteString(w, body)
			})
			got, err := newClient(t, s.URL).SearchTasks(t.Context(), ws, "interaction_request", tt.keys)
			kind := ""
			var lookup *LookupError
			if errors.As(err, &lookup) {
				kind = lookup.ErrorKind
			}
			if kind != tt.kind || (err == nil) != (tt.kind == "") || !slices.Equal(got, tt.want) {
				t.Errorf("\n got %+v, %v\nwant %+v, %q", got, err, tt.want, tt.kind)
			}
			if calls != tt.calls {
				t.Errorf("%d calls, want %d", calls, tt.calls)
			}
		})
	}
}

func checkSearch(t *testing.T, r *http.Request, keys []string) {
	want := `interaction_request == "` + keys[0] + `"`
	if len(keys) > 1 {
		want = `interaction_request IN ["` + strings.Join(keys, `", "`) + `"]`
	}
	q := r.URL.Query()
	if r.Method != "GET" || r.URL.Path != "/v1/Workspaces/"+ws+"/Tasks" || q.Get("EvaluateTaskAttributes") != want || q.Get("PageSize") != "50" ||
		strings.Contains(r.URL.RawQuery, "+") || r.ContentLength > 0 {
		t.Errorf("%s %s", r.Method, r.URL)
	}
}

func TestLookupErrors(t *testing.T) {
	t.Parallel()
	status, says := 0, 0
	s := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", "9")
		w.Header().Set("Twilio-Request-Id", "RQ3")
		w.WriteHeader(status)
		fmt.Fprintf(w, `{"status":%d,"message":"no","code":20%d}`, says, says)
	})
	c := newClient(t, s.URL)
	for _, tt := range []struct {
		status, says int // another status in the body is not Twilio's
		limited      bool
	}{{429, 429, true}, {429, 0, false}, {401, 401, false}, {403, 403, false}, {302, 302, false}, {404, 404, false},
		{404, 0, false}, {400, 400, false}, {503, 503, false}, {204, 204, false}} {
		status, says = tt.status, tt.says
		_, err := c.SearchTasks(t.Context(), ws, "interaction_request", []string{key})
		_, complete, eventsErr := c.Events(t.Context(), ws, "interaction_request", []string{key}, someday, someday.Add(time.Minute))
		for _, err := range []error{err, eventsErr} {
			var e *LookupError
			if !errors.As(err, &e) || e.Limited != tt.limited || e.HTTPStatus != tt.status ||
				e.RetryAfter != 9*time.Second || e.RequestID != "RQ3" || e.Message == "" || complete {
				t.Errorf("%d: %+v", tt.status, err)
			}
		}
	}
	s.Close()
	var e *LookupError
	if _, err := c.SearchTasks(t.Context(), ws, "interaction_request", []string{key}); !errors.As(err, &e) || e.ErrorKind != "dial" || e.Limited {
		t.Errorf("away: %+v", err)
	}
	for _, attribute := range []string{"", "a-b", `a == "" OR b`, "0"} {
		if _, err := c.SearchTasks(t.Context(), ws, attribute, []string{key}); !errors.As(err, &e) || e.ErrorKind != "request" {
			t.Errorf("a search under %q: %v", attribute, err)
		}
		if _, _, err := c.Events(t.Context(), ws, attribute, []string{key}, someday, someday.Add(1)); !errors.As(err, &e) || e.ErrorKind != "request" {
			t.Errorf("a look at the log under %q: %v", attribute, err)
		}
	}
	if _, err := c.SearchTasks(t.Context(), "WS/../x", "interaction_request", []string{key}); err == nil {
		t.Error("a path for a workspace")
	}
	if _, _, err := c.Events(t.Context(), ws, "interaction_request", nil, someday, someday.Add(1)); err == nil {
		t.Error("a look at the log for nothing")
	}
	if _, _, err := c.Events(t.Context(), ws, "interaction_request", []string{key, ""}, someday, someday.Add(1)); err == nil {
		t.Error("an empty key, which every task of others has")
	}
	if _, _, err := c.Events(t.Context(), ws, "interaction_request", []string{key}, someday, someday.Add(-time.Hour)); err == nil {
		t.Error("a window that ends before it begins")
	}
}

// eventLog is TaskRouter's log: it answers with the first full events of a window.
type eventLog struct {
	t      *testing.T
	events []struct {
		at   time.Time
		text string
	}
	full  int
	calls int
}

func (l *eventLog) add(at time.Time, n int, data string) {
	l.events = append(l.events, struct {
		at   time.Time
		text string
	}{at, fmt.Sprintf(`{"event_type":"task.created","resource_sid":"WT%032d","event_date":%q,"event_data":%s}`, n, at.Format(time.RFC3339), data)})
}

func (l *eventLog) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	l.calls++
	q := r.URL.Query()
	from, err1 := time.Parse(time.RFC3339, q.Get("StartDate"))
	to, err2 := time.Parse(time.RFC3339, q.Get("EndDate"))
	if err1 != nil || err2 != nil || r.URL.Path != "/v1/Workspaces/"+ws+"/Events" || q.Get("EventType") != "task.created" ||
		q.Get("PageSize") != "1000" || len(q) != 4 {
		l.t.Errorf("%s", r.URL)
	}
	var page []string
	next := "null"
	for _, e := range l.events {
		if e.at.Before(from) || e.at.After(to) {
			continue
		}
		if len(page) == l.full {
			next = `"https://h/?PageToken=x"`
			break
		}
		page = append(page, e.text)
	}
	fmt.Fprintf(w, `{"events":[%s],"meta":{"next_page_url":%s}}`, strings.Join(page, ","), next)
}

func TestEvents(t *testing.T) {
	t.Parallel()
	ours := `{"task_attributes":` + withKey(key) + `,"task_assignment_status":"pending"}`
	theirs := `{"task_attributes":"{}"}`
	at := func(seconds int) time.Time { return someday.Add(time.Duration(seconds) * time.Second) }
	for _, tt := range []struct {
		name     string
		fill     func(*eventLog)
		found    int
		complete bool
		calls    int // 0: more than one
	}{
		{"none", func(*eventLog) {}, 0, true, 1},
		{"ours among theirs", func(l *eventLog) { l.add(at(1), 1, theirs); l.add(at(2), 2, ours) }, 1, true, 1},
		{"event_data as text", func(l *eventLog) { l.add(at(2), 2, text(ours)) }, 1, true, 1},
		{"attributes by their other name", func(l *eventLog) { l.add(at(2), 2, `{"attributes":`+withKey(key)+`}`) }, 1, true, 1},
		{"redacted", func(l *eventLog) { l.add(at(1), 1, ours); l.add(at(2), 2, `{"task_attributes":null}`) }, 1, false, 1},
		{"no data", func(l *eventLog) { l.add(at(1), 1, `null`) }, 0, false, 1},
		{"outside of the window", func(l *eventLog) { l.add(at(-5), 1, ours); l.add(at(70), 2, ours) }, 0, true, 1},
		{"cut, then halved", func(l *eventLog) {
			for n := range 60 {
				l.add(at(n), n, theirs)
			}
			l.add(at(59), 99, ours)
		}, 1, true, 0},
		{"cut within a second", func(l *eventLog) {
			for n := range 60 {
				l.add(at(30), n, theirs)
			}
		}, 0, false, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			l := &eventLog{t: t, full: 20}
			tt.fill(l)
			s := serve(t, l.ServeHTTP)
			got, complete, err := newClient(t, s.URL).Events(t.Context(), ws, "interaction_request", []string{key}, someday, at(60))
			if err != nil || len(got) != tt.found || complete != tt.complete || (tt.calls > 0 && l.calls != tt.calls) ||
				(tt.calls == 0 && l.calls < 2) || l.calls > maxEvents {
				t.Errorf("%d calls: %+v, %v, %v", l.calls, got, complete, err)
			}
			for _, task := range got {
				if task.Key != key || task.InteractionSID != kd || !taskSID.MatchString(task.TaskSID) || task.DateCreated.IsZero() {
					t.Errorf("%+v", task)
				}
			}
		})
	}
}

// TestEventsFullPage: a page of 1,000 counts as cut though it names no next one,
// and the calls have an end.
func TestEventsFullPage(t *testing.T) {
	t.Parallel()
	one := fmt.Sprintf(`{"event_type":"task.created","resource_sid":"WT%032d","event_data":{"task_attributes":%s}}`, 1, withKey(key))
	page := `{"events":[` + strings.Repeat(one+",", 999) + one + `]}`
	calls := 0
	s := serve(t, func(w http.ResponseWriter, _ *http.Request) { calls++; io.WriteString(w, page) })
	got, complete, err := newClient(t, s.URL).Events(t.Context(), ws, "interaction_request", []string{key}, someday, someday.Add(time.Hour))
	if len(got) != 1 || complete || err != nil || calls != maxEvents {
		t.Errorf("%d calls: %d tasks, %v, %v", calls, len(got), complete, err)
	}
}

// TestEventsWithoutSID: two tasks whose sids are not told are two tasks.
func TestEventsWithoutSID(t *testing.T) {
	t.Parallel()
	one := func(k string) string {
		return `{"resource_sid":"EV1","event_data":{"task_attributes":` + withKey(k) + `}}`
	}
	s := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, `{"events":[%s,%s]}`, one(other), one(key))
	})
	got, complete, err := newClient(t, s.URL).Events(t.Context(), ws, "interaction_request", []string{key, other}, someday, someday.Add(time.Minute))
	if len(got) != 2 || got[1].Key != key || !complete || err != nil {
		t.Errorf("%+v, %v, %v", got, complete, err)
	}
}

func TestExpressionEscapes(t *testing.T) {
	t.Parallel()
	filter, err := expression(ws, "interaction_request", []string{key, other})
	if err != nil {
		t.Fatal(err)
	}
	back, _ := url.QueryUnescape(url.QueryEscape(filter))
	if want := `interaction_request IN ["` + key + `", "` + other + `"]`; filter != want || back != want {
		t.Errorf("%s", filter)
	}
}
