package flextest

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"
)

// unlimited is a TaskRouter without the rate, for tests about something else.
var unlimited = TaskRouter{Rate: -1}

// tasks is a page of a search.
type tasks struct {
	Tasks []struct {
		SID        string
		Attributes *string
		Status     string `json:"assignment_status"`
	}
	Meta struct {
		Next *string `json:"next_page_url"`
	}
}

// search asks for tasks; parameters come in pairs.
func search(t testing.TB, s *Server, filter string, more ...string) answer {
	t.Helper()
	query := url.Values{"EvaluateTaskAttributes": {filter}}
	for i := 0; i < len(more); i += 2 {
		query.Set(more[i], more[i+1])
	}
	return get(t, s, "/v1/Workspaces/"+WorkspaceSID+"/Tasks?"+query.Encode())
}

// found are the sids that a search shows.
func found(t testing.TB, a answer) []string {
	t.Helper()
	if a.status != 200 {
		t.Fatalf("search: %d %s", a.status, a.body)
	}
	list := []string{}
	for _, task := range read[tasks](t, a.body).Tasks {
		list = append(list, task.SID)
	}
	return list
}

func byKey(key string) string { return `interaction_request == "` + key + `"` }

func TestSearch(t *testing.T) {
	t.Parallel()
	s := NewWith(t, Config{TaskRouter: unlimited})
	create(t, s, formFor(hexA))
	create(t, s, formFor(hexB))
	other := s.AddTask(sid("WS"), WorkflowSID, `{"interaction_request":"`+hexA+`"}`)
	a, b := s.Ledger()[0].TaskSID, s.Ledger()[1].TaskSID
	for _, tt := range []struct {
		filter string
		want   []string
	}{
		{byKey(hexA), []string{a}},
		{`interaction_request=='` + hexA + `'`, []string{a}},
		{byKey(hexB) + ` OR ` + byKey(hexA), []string{a, b}},
		{`interaction_request IN ["` + hexB + `", '` + hexA + `', "cc"]`, []string{a, b}},
		{byKey("cc"), nil},
		{`flexInteractionSid == "` + s.Ledger()[1].InteractionSID + `"`, []string{b}},
		{`channelType == "sms"`, []string{a, b}},
		{`interaction_request = "` + hexA + `"`, nil}, // not understood from here on
		{byKey(hexA) + ` AND channelType == "sms"`, nil},
		{`interaction-request == "` + hexA + `"`, nil},
		{`(` + byKey(hexA) + `)`, nil},
		{"", nil},
	} {
		if got := found(t, search(t, s, tt.filter)); !slices.Equal(got, tt.want) {
			t.Errorf("%s: %v, want %v", tt.filter, got, tt.want)
		}
	}
	if got := found(t, get(t, s, "/v1/Workspaces/"+WorkspaceSID+"/Tasks")); !slices.Equal(got, []string{a, b}) {
		t.Errorf("no filter: %v", got)
	}
	if got := found(t, get(t, s, "/v1/Workspaces/"+sid("WS")+"/Tasks")); !slices.Equal(got, []string{other}) {
		t.Errorf("other workspace: %v", got)
	}
	s.SetTaskRouter(TaskRouter{Rate: -1, NoLists: true})
	for filter, want := range map[string]int{byKey(hexA): 1, byKey(hexB) + ` OR ` + byKey(hexA): 0, `interaction_request IN ["` + hexA + `"]`: 0} {
		if got := found(t, search(t, s, filter)); len(got) != want {
			t.Errorf("without lists, %s: %v", filter, got)
		}
	}
	s.SetTaskRouter(TaskRouter{Rate: -1, Blind: true})
	if got := found(t, search(t, s, byKey(hexA))); len(got) != 0 {
		t.Errorf("blind: %v", got)
	}
}

func TestSearchRefused(t *testing.T) {
	t.Parallel()
	s := NewWith(t, Config{TaskRouter: unlimited})
	for _, tt := range []struct {
		name, value  string
		status, code int
	}{
		{"Page", "1", 400, 40153}, {"page", "1", 400, 40153}, {"PageSize", "0", 400, 20001}, {"PageSize", "1001", 400, 20001},
		{"PageSize", "x", 400, 20001}, {"PageToken", "1", 400, 20001}, {"AssignmentStatus", "pending", 400, 20001},
	} {
		checkRefusedOnly(t, search(t, s, byKey(hexA), tt.name, tt.value), tt.status, tt.code)
	}
	req := request(t.Context(), t, s.URL()+"/v1/Workspaces/"+WorkspaceSID+"/Tasks/"+sid("WT"), url.Values{})
	checkRefusedOnly(t, do(t, req), 405, 20004)
	if got := s.Violations(); len(got) != 3 {
		t.Errorf("violations: %q", got)
	}
	s.ForgetViolations()
	s.SetCredentials()
	checkRefusedOnly(t, search(t, s, byKey(hexA)), 401, 20003)
	s.SetCredentials(Credential{AccountSID, AuthToken})
	for _, path := range []string{"/v1/Workspaces/WS1/Tasks", "/v1/Workspaces/" + WorkspaceSID, "/v1/Workspaces/" + WorkspaceSID + "/Tasks/" + sid("WT"), "/v2/Interactions"} {
		checkRefusedOnly(t, get(t, s, path), 404, 20404)
	}
}

func TestPaging(t *testing.T) {
	t.Parallel()
	s := NewWith(t, Config{TaskRouter: unlimited})
	var want []string
	for range 5 {
		create(t, s, formFor(hexA))
	}
	for _, e := range s.Ledger() {
		want = append(want, e.TaskSID)
	}
	var got []string
	pages, token := 0, []string{}
	for {
		a := search(t, s, byKey(hexA), append([]string{"PageSize", "2"}, token...)...)
		got, pages = append(got, found(t, a)...), pages+1
		next := read[tasks](t, a.body).Meta.Next
		if next == nil {
			break
		}
		address, err := url.Parse(*next)
		if err != nil || address.Query().Get("EvaluateTaskAttributes") != byKey(hexA) || address.Query().Has("Page") {
			t.Fatalf("next page: %v %v", address, err)
		}
		token = []string{"PageToken", address.Query().Get("PageToken")}
	}
	if pages != 3 || !slices.Equal(got, want) {
		t.Errorf("%d pages: %v, want %v", pages, got, want)
	}
}

// TestRate: however the searches fall into seconds, no four that are let
// through stand within one.
func TestRate(t *testing.T) {
	t.Parallel()
	s := New(t)
	var sent []time.Time // of those let through
	for range 8 {
		before := time.Now()
		a := search(t, s, byKey(hexA))
		switch a.status {
		case 200:
			sent = append(sent, before)
			if n := len(sent); n > 3 && time.Since(sent[n-4]) < time.Second {
				t.Error("four within a second")
			}
			if a.header.Get("X-Rate-Limit-Limit") != "3" || a.header.Get("X-Rate-Limit-Remaining") == "" {
				t.Errorf("headers: %v", a.header)
			}
		case 429:
			checkRefusedOnly(t, a, 429, 20429)
			if a.header.Get("X-Rate-Limit-Remaining") != "0" || a.header.Get("X-Rate-Limit-Config") != "Task-List-EvaluateTaskAttributes" {
				t.Errorf("headers: %v", a.header)
			}
		default:
			t.Fatalf("%d", a.status)
		}
	}
	if calls := s.Calls(); calls.Searched != 8 || calls.Limited != 8-len(sent) {
		t.Errorf("calls: %+v", calls)
	}
	l := limit{}
	start := time.Now()
	n := 0
	for range 1000 {
		if ok, _ := l.take(3); ok {
			n++
		}
	}
	if most := 3 * (1 + int(time.Since(start)/time.Second)); n > most || n < 3 {
		t.Errorf("%d let through, at most %d", n, most)
	}
	if a := get(t, s, "/v1/Workspaces/"+WorkspaceSID+"/Tasks"); a.status != 200 {
		t.Errorf("a list without the filter is not limited: %d", a.status)
	}
}

// TestTaskLife: a task is listed late, stays for five minutes when it is
// completed, and is gone then.
func TestTaskLife(t *testing.T) {
	t.Parallel()
	s := NewWith(t, Config{TaskRouter: TaskRouter{Rate: -1, Lag: time.Hour}})
	create(t, s, formFor(hexA))
	task := s.Ledger()[0].TaskSID
	step := func(name string, listed, shown int) {
		t.Helper()
		n, a := len(found(t, search(t, s, byKey(hexA)))), get(t, s, "/v1/Workspaces/"+WorkspaceSID+"/Tasks/"+task)
		if n != listed || a.status != shown {
			t.Errorf("%s: %d listed, %d; want %d, %d", name, n, a.status, listed, shown)
		}
	}
	step("lag", 0, 200)
	s.SetTaskRouter(unlimited)
	step("listed", 1, 200)
	s.Age(time.Hour)
	step("pending for ever", 1, 200)
	if n := s.Complete(hexA); n != 1 {
		t.Errorf("%d completed", n)
	}
	step("completed", 1, 200)
	if a := get(t, s, "/v1/Workspaces/"+WorkspaceSID+"/Tasks/"+task); !strings.Contains(a.body, `"assignment_status":"completed"`) {
		t.Errorf("completed: %s", a.body)
	}
	s.Age(5 * time.Minute)
	step("deleted", 0, 404)
	if a := get(t, s, "/v1/Interactions/"+s.Ledger()[0].InteractionSID); a.status != 200 {
		t.Errorf("its interaction: %d", a.status)
	}

	create(t, s, formFor(hexA))
	task = s.Ledger()[1].TaskSID
	step("another", 1, 200)
	s.Forget(task)
	step("forgotten", 0, 404)
	s.SetTaskRouter(TaskRouter{Rate: -1, Life: time.Hour})
	create(t, s, formFor(hexA))
	task = s.Ledger()[2].TaskSID
	step("alive", 1, 200)
	s.Age(time.Hour + 5*time.Minute)
	step("of age", 0, 404)
}

// TestManyTasks: copies and strangers for one key, and attributes overwritten.
func TestManyTasks(t *testing.T) {
	t.Parallel()
	s := NewWith(t, Config{TaskRouter: unlimited})
	create(t, s, formFor(hexA))
	s.Copy(s.Ledger()[0].InteractionSID)
	stranger := s.AddTask(WorkspaceSID, WorkflowSID, `{"interaction_request":"`+hexA+`","flexInteractionSid":"`+sid("KD")+`"}`)
	list := read[tasks](t, search(t, s, byKey(hexA)).body).Tasks
	if len(list) != 3 || list[2].SID != stranger {
		t.Fatalf("listed: %+v", list)
	}
	first, second := read[map[string]any](t, *list[0].Attributes), read[map[string]any](t, *list[1].Attributes)
	if first["flexInteractionSid"] != second["flexInteractionSid"] || list[0].SID == list[1].SID {
		t.Errorf("the copy is of another interaction: %v %v", first, second)
	}
	s.Overwrite(stranger, `{"other":1}`)
	if n := len(found(t, search(t, s, byKey(hexA)))); n != 2 {
		t.Errorf("%d listed after one was overwritten", n)
	}
	if len(s.Duplicates()) != 0 {
		t.Errorf("duplicates: %q", s.Duplicates())
	}
}

func TestNullAttributes(t *testing.T) {
	t.Parallel()
	s := NewWith(t, Config{TaskRouter: TaskRouter{Rate: -1, NullAttributes: true}})
	create(t, s, formFor(hexA))
	list := read[tasks](t, search(t, s, byKey(hexA)).body).Tasks
	if len(list) != 1 || list[0].Attributes != nil {
		t.Fatalf("listed: %+v", list)
	}
	a := get(t, s, "/v1/Workspaces/"+WorkspaceSID+"/Tasks/"+list[0].SID)
	if attributes := read[map[string]any](t, *read[struct{ Attributes *string }](t, a.body).Attributes); attributes["interaction_request"] != hexA {
		t.Errorf("shown: %v", attributes)
	}
}

// TestTrouble: TaskRouter fails, and what it would have said is not heard.
func TestTrouble(t *testing.T) {
	t.Parallel()
	s := New(t)
	create(t, s, formFor(hexA))
	paths := []string{"/Tasks?EvaluateTaskAttributes=" + url.QueryEscape(byKey(hexA)), "/Tasks/" + s.Ledger()[0].TaskSID, "/Events"}
	for fault, want := range map[Fault]string{
		Status(500): "500 code 20500", Status(503).HTML(): "503 html", Status(429): "429 code 20429", NotJSON: "200 not JSON",
		HTML: "200 html", Reset: "reset", EOF: "EOF", Cut: "200 cut", Empty: "204 empty", Huge: "200 too large",
	} {
		s.SetTaskRouter(TaskRouter{Rate: -1, Trouble: fault, EventTrouble: fault})
		for _, path := range paths {
			res, err := newClient(t).Do(request(t.Context(), t, s.URL()+"/v1/Workspaces/"+WorkspaceSID+path, nil))
			if got := look(res, err); got != want {
				t.Errorf("%s, %s: %q, want %q", fault, path, got, want)
			}
		}
	}
	s.SetTaskRouter(TaskRouter{Trouble: Hang})
	seen := make(chan string, 1)
	req := request(t.Context(), t, s.URL()+"/v1/Workspaces/"+WorkspaceSID+"/Tasks", nil)
	go func() {
		res, err := newClient(t).Do(req)
		seen <- look(res, err)
	}()
	until(t, s, func(c Calls) bool { return c.Hanging == 1 })
	s.Close()
	if got := <-seen; got != "EOF" && got != "reset" {
		t.Errorf("hang: %q", got)
	}
}

type events struct {
	Events []struct {
		Type     string `json:"event_type"`
		Resource string `json:"resource_sid"`
		Data     struct {
			Attributes string `json:"task_attributes"`
		} `json:"event_data"`
	}
}

func TestEvents(t *testing.T) {
	t.Parallel()
	s := New(t)
	for i := range 4 {
		create(t, s, formFor(fmt.Sprintf("%032x", i)))
	}
	workflow := sid("WW")
	added := s.AddTask(WorkspaceSID, workflow, `{"interaction_request":"`+hexA+`"}`)
	s.Overwrite(s.Ledger()[0].TaskSID, `{"gone":true}`)
	s.Forget(s.Ledger()[1].TaskSID)
	list := func(query ...string) []string {
		t.Helper()
		values := url.Values{}
		for i := 0; i < len(query); i += 2 {
			values.Set(query[i], query[i+1])
		}
		a := get(t, s, "/v1/Workspaces/"+WorkspaceSID+"/Events?"+values.Encode())
		if a.status != http.StatusOK {
			t.Fatalf("%v: %d %s", query, a.status, a.body)
		}
		keys := []string{}
		for _, e := range read[events](t, a.body).Events {
			key, _ := read[map[string]any](t, e.Data.Attributes)["interaction_request"].(string)
			keys = append(keys, strings.TrimLeft(key, "0"))
		}
		return keys
	}
	check := func(name string, got []string, want ...string) {
		t.Helper()
		if !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	a := get(t, s, "/v1/Workspaces/"+WorkspaceSID+"/Events")
	if e := read[events](t, a.body).Events[0]; e.Type != "task.created" || e.Resource != added {
		t.Errorf("the newest: %+v", e)
	}
	check("all, as created", list("EventType", "task.created"), hexA, "3", "2", "1", "")
	check("cut", list("PageSize", "2"), hexA, "3")
	check("workflow", list("WorkflowSid", workflow), hexA)
	check("other type", list("EventType", "task.canceled"))
	rfc := func(d time.Duration) string { return time.Now().Add(d).UTC().Format(time.RFC3339) }
	check("later", list("StartDate", rfc(time.Hour)))
	check("earlier", list("EndDate", rfc(-time.Hour)))
	s.Age(time.Hour)
	check("quarter of an hour", list())
	check("by dates", list("StartDate", rfc(-2*time.Hour), "EndDate", rfc(0)), hexA, "3", "2", "1", "")
	check("by day", list("StartDate", time.Now().Add(-48*time.Hour).UTC().Format(time.DateOnly)), hexA, "3", "2", "1", "")
	s.SetTaskRouter(TaskRouter{EventLag: 3 * time.Hour})
	check("lag", list("StartDate", rfc(-2*time.Hour)))
	s.SetTaskRouter(TaskRouter{NoEvents: true})
	check("off", list("StartDate", rfc(-2*time.Hour)))
	for _, query := range []string{"Page=1", "PageToken=x", "StartDate=yesterday", "WorkflowSid=WW1", "PageSize=0"} {
		checkRefusedOnly(t, get(t, s, "/v1/Workspaces/"+WorkspaceSID+"/Events?"+query), 400, 20001)
	}
}
