package flextest

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

// TestRemote does from outside what the other tests do in the process.
func TestRemote(t *testing.T) {
	t.Parallel()
	s, ctx := New(t), patience(t)
	r := Remote{URL: s.URL(), Client: newClient(t)}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Error(err)
		}
	}
	status := func(want int) {
		t.Helper()
		if a := create(t, s, formFor(hexA)); a.status != want {
			t.Errorf("create: %d, want %d: %s", a.status, want, a.body)
		}
	}
	status(200)
	must(r.Inject(ctx, Injection{Next: []Fault{CreateThen(Status(503)), None}}))
	status(503)
	status(200)
	must(r.Inject(ctx, Injection{Key: hexA, Script: []Fault{Status(500)}}))
	status(500)
	must(r.Inject(ctx, Injection{Rule: Rule{Fault: Status(504).HTML(), Channel: "sms"}}))
	status(504)
	must(r.Clear(ctx))
	must(r.SetAccess(ctx, Access{Credentials: []Credential{}}))
	status(401)
	must(r.SetAccess(ctx, Access{Suspended: true}))
	status(403)
	must(r.SetAccess(ctx, Access{}))
	must(r.Set(ctx, Settings{Status: 201, Latency: time.Microsecond}))
	status(201)
	must(r.SetTaskRouter(ctx, TaskRouter{Rate: -1, Lag: time.Minute}))
	if got := s.TaskRouter(); got != (TaskRouter{Rate: -1, Lag: time.Minute}) {
		t.Errorf("TaskRouter: %+v", got)
	}
	must(r.Act(ctx, TaskAct{Age: "1h"}))
	must(r.Act(ctx, TaskAct{Copy: hexA}))
	must(r.Act(ctx, TaskAct{Complete: hexA}))
	must(r.Act(ctx, TaskAct{Overwrite: hexA, Attributes: `{"a":1}`}))
	if err := r.Act(ctx, TaskAct{Forget: hexA}); err == nil {
		t.Error("no task is left to forget")
	}
	must(r.Release(ctx))

	calls, err := r.Calls(ctx)
	must(err)
	if calls.Created != 4 || calls.Duplicates != 1 || calls.Answered[503] != 1 || calls.Answered[200] != 2 {
		t.Errorf("calls: %+v", calls)
	}
	twice, err := r.Duplicates(ctx)
	if must(err); len(twice) != 1 || twice[0] != hexA {
		t.Errorf("duplicates: %q", twice)
	}
	violations, err := r.Violations(ctx)
	if must(err); len(violations) != 0 {
		t.Errorf("violations: %q", violations)
	}
	var entries []Entry
	must(r.Ledger(ctx, 1, func(e Entry) error { entries = append(entries, e); return nil }))
	want := s.Ledger()[1:]
	if len(entries) != 3 || fmt.Sprint(entries[0].InteractionSID, entries[0].Call) != fmt.Sprint(want[0].InteractionSID, want[0].Call) || !entries[2].At.Equal(want[2].At) {
		t.Errorf("ledger: %+v", entries)
	}
	enough := errors.New("enough")
	if err := r.Ledger(ctx, 0, func(Entry) error { return enough }); !errors.Is(err, enough) {
		t.Errorf("got %v", err)
	}
}

// TestRemoteOutage: the command is answered, the outage happens, and it ends.
func TestRemoteOutage(t *testing.T) {
	t.Parallel()
	remoteOutage(t, Injection{Down: "50ms"})
}

func remoteOutage(t *testing.T, in Injection) {
	t.Helper()
	s, ctx := New(t), patience(t)
	if err := (Remote{URL: s.URL(), Client: newClient(t)}).Inject(ctx, in); err != nil {
		t.Fatal(err)
	}
	for {
		res, err := newClient(t).Do(request(ctx, t, s.URL()+"/v1/Interactions", formFor(hexA)))
		if got := look(res, err); got == "200 sid" {
			break
		} else if ctx.Err() != nil {
			t.Fatalf("never up again: %s", got)
		}
	}
}

// TestControlRefused: a command with a mistake in it changes nothing and says
// why.
func TestControlRefused(t *testing.T) {
	t.Parallel()
	s := New(t)
	for _, tt := range []struct {
		method, path, body string
		status             int
		text               string
	}{
		{"POST", "faults", `{"fault":"rest"}`, 400, `there is no fault "rest"`},
		{"POST", "faults", `{"next":["reset","rest"]}`, 400, `there is no fault "rest"`},
		{"POST", "faults", `{"next":["rest"]}`, 400, `there are a status from 300 to 599, bad-sid, cut, drip, empty, eof, flood, gzip, gzip-bomb, hang, html, huge, huge-headers, no-sid, not-json, reset, slow-body, each`},
		{"POST", "faults", `{"falt":"reset"}`, 400, `unknown field "falt"`},
		{"POST", "faults", `{}`, 400, "one of fault"},
		{"POST", "faults", `{"down":"5"}`, 400, "missing unit"},
		{"POST", "faults", `not JSON`, 400, "invalid character"},
		{"POST", "settings", `{"latency":"soon"}`, 400, "invalid duration"},
		{"POST", "settings", `{"fetch_trouble":"rest"}`, 400, "there is no fault"},
		{"POST", "settings", `{"status":503}`, 400, "not with 503"},
		{"POST", "taskrouter", `{"leg":"1s"}`, 400, `unknown field "leg"`},
		{"POST", "credentials", `[]`, 400, "cannot unmarshal"},
		{"POST", "tasks", `{}`, 400, "one of complete"},
		{"POST", "tasks", `{"forget":"nobody"}`, 400, "no such task"},
		{"POST", "tasks", `{"age":"x"}`, 400, "invalid duration"},
		{"POST", "nothing", `{}`, 404, "not found"},
		{"PUT", "faults", `{}`, 404, "not found"},
		{"GET", "healthz", ``, 200, "ok\n"},
		{"GET", "settings", ``, 200, `"latency":"0s"`},
		{"GET", "taskrouter", ``, 200, `"event_lag":"0s"`},
	} {
		req, err := http.NewRequestWithContext(t.Context(), tt.method, s.URL()+"/_control/"+tt.path, strings.NewReader(tt.body))
		if err != nil {
			t.Fatal(err)
		}
		res, err := newClient(t).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		text, _ := io.ReadAll(res.Body)
		res.Body.Close()
		if res.StatusCode != tt.status || !strings.Contains(string(text), tt.text) {
			t.Errorf("%s %s %s: %d %s", tt.method, tt.path, tt.body, res.StatusCode, text)
		}
	}
	sidOf(t, create(t, s, formFor(hexA)))
}

// TestPartial: what a command does not name stays as it was.
func TestPartial(t *testing.T) {
	t.Parallel()
	s := NewWith(t, Config{TaskRouter: TaskRouter{Lag: time.Hour, Blind: true}})
	for _, body := range []string{`{"rate":-1}`, `{"blind":false,"event_lag":"1m30s","trouble":"503; html"}`} {
		req, err := http.NewRequestWithContext(t.Context(), "POST", s.URL()+"/_control/taskrouter", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		if a := do(t, req); a.status != 200 {
			t.Fatalf("%d %s", a.status, a.body)
		}
	}
	want := TaskRouter{Lag: time.Hour, Rate: -1, EventLag: 90 * time.Second, Trouble: Status(503).HTML()}
	if got := s.TaskRouter(); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

// TestLongLedger: more entries than fit in one part arrive, in order.
func TestLongLedger(t *testing.T) {
	t.Parallel()
	s := New(t)
	for range 2500 {
		s.ledger.add(&wish{}, 1, &Settings{}, &TaskRouter{})
	}
	n := 0
	err := Remote{URL: s.URL(), Client: newClient(t)}.Ledger(t.Context(), 0, func(e Entry) error {
		if n++; e.N != n {
			return fmt.Errorf("entry %d in place %d", e.N, n)
		}
		return nil
	})
	if err != nil || n != 2500 {
		t.Errorf("%d entries, %v", n, err)
	}
}
