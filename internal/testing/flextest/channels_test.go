package flextest

import (
	"net/url"
	"strings"
	"testing"
)

// TestChannels: an interaction has one channel, active until it is closed, and its task ends with it.
func TestChannels(t *testing.T) {
	t.Parallel()
	s := New(t)
	interaction := sidOf(t, create(t, s, formFor(hexA)))
	path := "/v1/Interactions/" + interaction + "/Channels"
	type channel struct {
		SID         string `json:"sid"`
		Interaction string `json:"interaction_sid"`
		Type        string `json:"type"`
		Status      string `json:"status"`
	}
	listed := func() channel {
		t.Helper()
		list := read[struct{ Channels []channel }](t, get(t, s, path).body).Channels
		if len(list) != 1 {
			t.Fatalf("%+v", list)
		}
		return list[0]
	}
	c := listed()
	if c.Interaction != interaction || c.Type != "sms" || c.Status != "active" || !isSID("UO", c.SID) || get(t, s, path+"/"+c.SID).status != 200 {
		t.Errorf("%+v", c)
	}
	post := func(channel string, form url.Values) answer {
		return do(t, request(t.Context(), t, s.URL()+path+channel, form))
	}
	closed := url.Values{"Status": {"closed"}, "Routing": {`{"status":"closed"}`}}
	for _, tt := range []struct {
		name, channel string
		form          url.Values
		status, code  int
	}{
		{"no status", "/" + c.SID, url.Values{"Routing": {`{}`}}, 400, 45358},
		{"another status", "/" + c.SID, url.Values{"Status": {"done"}}, 400, 45359},
		{"another routing", "/" + c.SID, url.Values{"Status": {"closed"}, "Routing": {`{"status":"gone"}`}}, 400, 20001},
		{"an unknown parameter", "/" + c.SID, url.Values{"Status": {"closed"}, "Why": {"x"}}, 400, 20001},
		{"another channel", "/" + sid("UO"), closed, 404, 20404},
		{"the list", "", closed, 405, 20004},
	} {
		if a := post(tt.channel, tt.form); a.status != tt.status || read[struct{ Code int }](t, a.body).Code != tt.code {
			t.Errorf("%s: %d %s", tt.name, a.status, a.body)
		}
	}
	s.Set(Settings{CloseTrouble: Status(503)})
	if a := post("/"+c.SID, closed); a.status != 503 || listed().Status != "active" {
		t.Errorf("in trouble: %d, %+v", a.status, listed())
	}
	s.Set(Settings{CloseTrouble: CreateThen(Status(503))})
	if a := post("/"+c.SID, closed); a.status != 503 || listed().Status != "closed" {
		t.Errorf("closed, and not told: %d, %+v", a.status, listed())
	}
	s.Set(Settings{})
	if a := post("/"+c.SID, closed); a.status != 409 || !strings.Contains(a.body, `"code":80906`) {
		t.Errorf("again: %d %s", a.status, a.body)
	}
	if a := get(t, s, "/v1/Interactions/"+interaction); !strings.Contains(a.body, `"assignment_status":"completed"`) {
		t.Errorf("its task: %s", a.body)
	}
	if calls := s.Calls(); calls.Closed != 1 || calls.Channels != 4 {
		t.Errorf("%+v", calls)
	}
}

// TestCloseOfShared: to close a conversation that another interaction has is a violation.
func TestCloseOfShared(t *testing.T) {
	t.Parallel()
	s := New(t)
	shared := formFor(hexA)
	shared.Set("Channel", `{"type":"web","initiated_by":"customer","properties":{"media_channel_sid":"`+sid("CH")+`"}}`)
	first, second := sidOf(t, create(t, s, shared)), sidOf(t, create(t, s, shared))
	channel := read[struct{ Channels []struct{ SID string } }](t, get(t, s, "/v1/Interactions/"+second+"/Channels").body).Channels[0].SID
	form := url.Values{"Status": {"closed"}}
	if a := do(t, request(t.Context(), t, s.URL()+"/v1/Interactions/"+second+"/Channels/"+channel, form)); a.status != 200 {
		t.Errorf("%d %s", a.status, a.body)
	}
	if got := s.Violations(); len(got) != 1 || !strings.Contains(got[0], first) {
		t.Errorf("%v", got)
	}
	s.ForgetViolations()
}
