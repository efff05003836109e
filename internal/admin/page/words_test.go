package page

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"flexworker/internal/outbox/gate"
	"flexworker/internal/outbox/operator"
	"flexworker/internal/outbox/request"
)

var noon = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

// TestJudge: the first screen says whether requests move and, if not, why, since when, and what to do.
func TestJudge(t *testing.T) {
	t.Parallel()
	reason := "Flex answered 401: Authenticate"
	replica := func(name string, word gate.Word) gate.Replica {
		r := gate.Replica{Name: name, Alive: true, State: word, Since: noon.Add(-time.Minute)}
		if word == gate.WordUnauthorized {
			r.Reason = &reason
		}
		return r
	}
	fleet := func(words ...gate.Word) gate.Fleet {
		f := gate.Fleet{Now: noon, Rate: 10}
		for i, w := range words {
			f.Replicas = append(f.Replicas, replica(fmt.Sprint("w", i+1), w))
		}
		return f
	}
	waits := func(n int64) []operator.Backlog {
		return []operator.Backlog{{State: "pending", Requests: n, Oldest: 49 * time.Second}, {State: "sending", Requests: 3}}
	}
	gone := fleet(gate.WordOK, gate.WordUnreachable)
	gone.Replicas[1].Alive, gone.Replicas[1].SeenAt = false, noon.Add(-5*time.Minute)
	held := gate.Status{State: gate.Held, HeldSince: noon.Add(-time.Hour), ChangedBy: "grace", Reason: "an incident"}
	for _, tt := range []struct {
		name              string
		gate              gate.Status
		fleet             gate.Fleet
		backlog           []operator.Backlog
		stream            int
		waiting, toDecide string
		tone              string
		want              []string
	}{
		{"idle", gate.Status{State: gate.Open}, fleet(gate.WordOK), waits(0), 0, "", "", "good", []string{"Nothing waits to be sent"}},
		{"somebody is needed", gate.Status{State: gate.Open}, fleet(gate.WordOK), waits(0), 0, "3", "", "warn", []string{"Nothing waits to be sent, but 3 things need attention"}},
		{"at work", gate.Status{State: gate.Open}, fleet(gate.WordOK, gate.WordLimited), waits(5), 0, "", "", "good", []string{"Requests move"}},
		{"more than the rate lets through", gate.Status{State: gate.Open}, fleet(gate.WordOK), waits(6000), 0, "", "", "good", []string{"Requests move", "6,000 requests wait: at the fleet's rate of 10 a second that takes 10 min"}},
		{"not counted yet", gate.Status{State: gate.Open}, fleet(gate.WordOK), nil, 0, "", "", "good", []string{"Requests move"}},
		{"one thing", gate.Status{State: gate.Open}, fleet(gate.WordOK), waits(5), 0, "1", "", "warn", []string{"Requests move, but 1 thing needs attention"}},
		{"held", held, fleet(gate.WordHeld), waits(5), 0, "", "", "bad", []string{"Nothing is sent: the fleet is held", "If you release, all replicas send again at once: 5 requests that waited, at the fleet's rate of 10 a second.", "Held by grace since", ": an incident.", "5 requests wait. The oldest came 49 s ago.", "No. Somebody has to release it", "2026-11-22 11:00:00"}},
		{"held, and a replica has lost its credentials", held, fleet(gate.WordUnauthorized), waits(5), 0, "", "", "bad", []string{"the fleet is held", "w1 is unauthorized"}},
		{"paused", gate.Status{State: gate.Paused, PausedFor: 90 * time.Second}, fleet(gate.WordPaused), waits(5), 0, "", "", "warn", []string{"Flex asked for a pause", "Yes, at 2026-11-22 12:01:30"}},
		{"one without credentials", gate.Status{State: gate.Open}, fleet(gate.WordOK, gate.WordUnauthorized), waits(5), 0, "", "", "warn",
			[]string{"Requests move, but 1 of 2 replicas cannot work", "w2 is unauthorized since 2026-11-22 11:59:00.000 UTC (" + reason + ")", "Put the secret right"}},
		{"none has a way", gate.Status{State: gate.Open}, fleet(gate.WordUnreachable, gate.WordUnreachable), waits(5), 0, "", "", "bad", []string{"Nothing moves: no replica reaches Flex", "5 requests wait. The oldest came 49 s ago.", "w1 and w2 are unreachable since", "See status.twilio.com"}},
		{"none has credentials", gate.Status{State: gate.Open}, fleet(gate.WordUnauthorized, gate.WordUnauthorized, gate.WordUnauthorized, gate.WordUnauthorized, gate.WordUnauthorized), waits(1), 0, "", "", "bad",
			[]string{"Nothing moves: Flex refuses the credentials of all replicas", "1 request waits. It came 49 s ago.", "w1, w2 and 3 more are unauthorized since", "(" + reason + ")"}},
		{"each for a reason of its own", gate.Status{State: gate.Open}, fleet(gate.WordUnauthorized, gate.WordUnreachable), waits(5), 0, "", "", "bad",
			[]string{"Nothing moves: no replica can work", "w1 is unauthorized", "w2 is unreachable", "Put the secret right", "See status.twilio.com"}},
		{"none succeeds", gate.Status{State: gate.Open}, fleet(gate.WordFailing), waits(5), 0, "", "", "bad", []string{"Nothing moves", "none has succeeded for a minute"}},
		{"one is gone, and one is to be decided", gate.Status{State: gate.Open}, gone, waits(0), 0, "2", "1", "warn", []string{"but 2 things need attention", "Do:Decide 1 request. "}},
		{"one is gone in a hold", held, gone, waits(0), 0, "", "", "bad", []string{"Then release it. Gate:"}},
		{"decisions", gate.Status{State: gate.Open}, fleet(gate.WordOK), waits(0), 0, "4", "3", "warn", []string{"Do:Decide 3 requests. "}},
		{"one is gone", gate.Status{State: gate.Open}, gone, waits(5), 0, "", "", "good", []string{"Requests move", "w2 is gone: it was last seen at 2026-11-22 11:55:00.000 UTC", "Do:If nobody stopped or replaced w2, start it again, and see its log. "}},
		{"none is stored", gate.Status{State: gate.Open}, fleet(gate.WordOK), waits(0), 12, "", "", "good", []string{"Requests move", "12 messages wait in the request stream"}},
		{"none is stored by anybody", gate.Status{State: gate.Open}, fleet(gate.WordUnreachable), waits(0), 1, "", "", "bad", []string{"Nothing moves", "1 message waits in the request stream"}},
		{"no replica lives", gate.Status{State: gate.Open}, gate.Fleet{Now: noon}, waits(5), 0, "", "", "bad", []string{"Nothing moves: no replica runs"}},
	} {
		d := judge(tt.gate, tt.fleet, tt.backlog, stream{tt.stream, true}, tt.waiting, tt.toDecide)
		text := fmt.Sprintf("%+v", d)
		if d.Tone == "bad" && strings.Contains(text, "The others take the messages") {
			t.Errorf("%s: there are no others:\n%s", tt.name, text)
		}
		if d.Tone != tt.tone {
			t.Errorf("%s: the tone is %s, want %s", tt.name, d.Tone, tt.tone)
		}
		for _, want := range tt.want {
			if !strings.Contains(text, want) {
				t.Errorf("%s: it does not say %q:\n%s", tt.name, want, text)
			}
		}
	}
}

// TestWordsAreThere: every word of a replica and every state means something on the page.
func TestWordsAreThere(t *testing.T) {
	t.Parallel()
	for _, w := range gate.Words {
		if causes[w].Means == "" || !slices.Contains([]string{"good", "warn", "bad"}, causes[w].Tone) {
			t.Errorf("%s: %+v", w, causes[w])
		}
		if stops := !w.Ready() || w == gate.WordFailing; stops != (causes[w].All != "") {
			t.Errorf("%s of all replicas: %q", w, causes[w].All)
		}
	}
	css, err := os.ReadFile("static/style.css")
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range request.States {
		if means[s] == "" || s != request.Pending && !strings.Contains(string(css), ".state-"+string(s)) { // pending is the plain shape
			t.Errorf("%s means %q, or has no shape", s, means[s])
		}
	}
}

// TestScriptIsShort: the script is one that a reader can keep in mind.
func TestScriptIsShort(t *testing.T) {
	t.Parallel()
	script, err := os.ReadFile("static/script.js")
	if err != nil {
		t.Fatal(err)
	}
	if n := bytes.Count(script, []byte("\n")); n > 300 {
		t.Errorf("it has %d lines, at most 300 are wanted", n)
	}
}

// TestTimed: moments in prose are found, whatever stands around them.
func TestTimed(t *testing.T) {
	t.Parallel()
	for text, want := range map[string][]stamp{
		"":                                      {{UTC: ""}},
		"no time":                               {{UTC: "no time"}},
		"a\u202eb":                              {{UTC: `a\u202eb`}},
		"since 2026-11-22 12:00:00.000 UTC (x)": {{UTC: "since "}, {"2026-11-22T12:00:00.000Z", "2026-11-22 12:00:00 UTC"}, {UTC: " (x)"}},
		"at 2026-13-45 12:00:00 UTC":            {{UTC: "at "}, {UTC: "2026-13-45 12:00:00 UTC"}, {UTC: ""}},
	} {
		if got := timed(text); !slices.Equal(got, want) {
			t.Errorf("%q: %+v, want %+v", text, got, want)
		}
	}
}

// TestChart: bars stand on each other, none is higher than the chart, and a hold is shaded for as long as it lasted.
func TestChart(t *testing.T) {
	t.Parallel()
	var minutes []minute
	for i := range 60 {
		minutes = append(minutes, minute{From: noon.Add(time.Duration(i) * time.Minute), Created: int64(i)})
	}
	minutes[10].Failed, minutes[10].Unsent = 20, 10
	c := newChart("wide", 644, 10, minutes, []hold{{noon.Add(-time.Hour), noon.Add(30 * time.Minute)}, {noon.Add(-2 * time.Hour), noon.Add(-time.Hour)}})
	if len(c.Bars) != 59+2 || len(c.Ticks) != 6 || len(c.Holds) != 1 {
		t.Fatalf("%d bars, %d ticks, %d holds", len(c.Bars), len(c.Ticks), len(c.Holds))
	}
	if h := c.Holds[0]; h.X != "44" || h.Width != "300" {
		t.Errorf("the hold is %+v", h)
	}
	if top := c.Bars[len(c.Bars)-1]; top.Y != "20.5" || top.Height != "147.5" { // 59 of 60
		t.Errorf("the highest bar: %+v", top)
	}
	if newChart("none", 644, 10, nil, nil) != nil {
		t.Error("a chart of nothing")
	}
	for n, want := range map[int64]int64{0: 1, 1: 1, 2: 2, 3: 4, 5: 6, 7: 8, 9: 10, 11: 12, 59: 60, 131: 160, 170: 200, 999: 1000} {
		if got := nice(n); got != want {
			t.Errorf("nice(%d) is %d, want %d", n, got, want)
		}
	}
}

// FuzzMask: what is masked is JSON, has the names, and none of the values.
func FuzzMask(f *testing.F) {
	for _, text := range []string{`{"a":"secret","b":[1.50,{"c":"secret"}],"metadata":{"d":"secret"}}`, `[]`, `null`, `"secret"`, `{"a":"secret"`, `{"<b>":1}`, `secret`, ``, `{"a":1}{"b":2}`, `[[[[1]]]]`} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		all := mask(json.RawMessage(text), "")
		if !json.Valid(all) {
			t.Fatalf("%q became %s", text, all)
		}
		if rest := strings.ReplaceAll(string(all), masked, ""); json.Valid([]byte(text)) && strings.ContainsAny(outsideOfNames(rest), "0123456789tf") {
			t.Errorf("%q became %s", text, all)
		}
		part := mask(json.RawMessage(text), "metadata")
		if !json.Valid(part) {
			t.Fatalf("under metadata, %q became %s", text, part)
		}
	})
}

// outsideOfNames is JSON without its texts; null is taken out as well.
func outsideOfNames(text string) string {
	var b strings.Builder
	inside, escaped := false, false
	for _, r := range strings.ReplaceAll(text, "null", "") {
		switch {
		case escaped:
			escaped = false
		case inside && r == '\\':
			escaped = true
		case r == '"':
			inside = !inside
		case !inside:
			b.WriteRune(r)
		}
	}
	return b.String()
}

// TestMaskUnder: of the result only the sender's metadata are masked.
func TestMaskUnder(t *testing.T) {
	t.Parallel()
	got := string(mask(json.RawMessage(`{"request_id": "a", "n": 1.50, "metadata": {"ticket": "secret"}, "z": null}`), "metadata"))
	if want := `{"request_id":"a","n":1.50,"metadata":{"ticket":"•••"},"z":null}`; strings.ReplaceAll(got, "\n", "") != want {
		t.Errorf("%s, want %s", got, want)
	}
}
