package flextest

import (
	"math/rand/v2"
	"strings"
	"testing"
	"time"
)

// TestSetUp: channels and participants show what became of an interaction after it was accepted.
func TestSetUp(t *testing.T) {
	t.Parallel()
	for fate, want := range map[Fate]struct{ before, status, task string }{
		"":            {"setup", `"status":"active","error_code":null`, `"assignment_status":"pending"`},
		ChannelFailed: {"setup", `"status":"failed","error_code":50416,"error_message":"A binding`, `"assignment_status":"pending"`},
		NoCustomer:    {"setup", `"status":"active"`, `"assignment_status":"pending"`},
		TaskCanceled:  {"setup", `"status":"active"`, `"assignment_status":"canceled"`},
		Stuck:         {"setup", `"status":"setup"`, `"assignment_status":"pending"`},
	} {
		s := NewWith(t, Config{Settings: Settings{SetupAfter: time.Hour}})
		interaction := sidOf(t, create(t, s, formFor(hexA)))
		if s.Decide(interaction, fate) != 1 || s.Ledger()[0].Fate != fate {
			t.Fatalf("%s: the ledger says %q", fate, s.Ledger()[0].Fate)
		}
		path := "/v1/Interactions/" + interaction
		if a := get(t, s, path+"/Channels"); a.status != 200 || !strings.Contains(a.body, `"status":"`+want.before+`"`) {
			t.Errorf("%s: at first %d %s", fate, a.status, a.body)
		}
		s.Age(time.Hour)
		a := get(t, s, path+"/Channels")
		if !strings.Contains(a.body, want.status) {
			t.Errorf("%s: later %s", fate, a.body)
		}
		channel := a.body[strings.Index(a.body, "UO"):][:34]
		a = get(t, s, path+"/Channels/"+channel+"/Participants")
		if customer := fate == "" || fate == TaskCanceled; strings.Contains(a.body, `"type":"customer"`) != customer || !strings.Contains(a.body, `"type":"agent"`) {
			t.Errorf("%s: participants %d %s", fate, a.status, a.body)
		}
		if a := get(t, s, path); !strings.Contains(a.body, want.task) {
			t.Errorf("%s: %s", fate, a.body)
		}
		if a := get(t, s, path+"/Channels/"+sid("UO")+"/Participants"); a.status != 404 {
			t.Errorf("another channel: %d", a.status)
		}
		s.Set(Settings{SetupTrouble: Status(403)})
		if a := get(t, s, path+"/Channels"); a.status != 403 {
			t.Errorf("refused: %d", a.status)
		}
		if n := s.Calls().Channels + s.Calls().Members; n != 4 {
			t.Errorf("%d reads counted", n)
		}
	}
}

// TestSetupFates: the shares of fates are kept to.
func TestSetupFates(t *testing.T) {
	t.Parallel()
	dice, n := rand.New(rand.NewPCG(1, 1)), map[Fate]int{}
	for range 10000 {
		n[SetupFates{ChannelFailed: .05, NoCustomer: .05, TaskCanceled: .05, Stuck: .05}.throw(dice)]++
	}
	for _, fate := range []Fate{ChannelFailed, NoCustomer, TaskCanceled, Stuck} {
		if n[fate] < 400 || n[fate] > 600 {
			t.Errorf("%d of 10,000 are %s", n[fate], fate)
		}
	}
	if n[""] < 7800 {
		t.Errorf("%v", n)
	}
}
