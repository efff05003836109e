package flextest

import (
	"slices"
	"testing"
)

func TestScript(t *testing.T) {
	t.Parallel()
	s := New(t)
	s.Script(hexA, Status(503), None, CreateThen(Status(500)))
	s.Script("case-7", Status(504))
	var got []int
	for _, form := range []string{hexA, hexB, hexA, hexA, hexA} {
		got = append(got, create(t, s, formFor(form)).status)
	}
	form := formFor(hexB)
	form.Set("Routing", routingFor(`{"test_id":"case-7"}`))
	got = append(got, create(t, s, form).status)
	if want := []int{503, 200, 200, 500, 200, 504}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if n := len(s.Ledger()); n != 4 {
		t.Errorf("%d created, want 4", n)
	}
}

func TestRules(t *testing.T) {
	t.Parallel()
	chat := formFor(hexA)
	chat.Set("Channel", `{"type":"chat","initiated_by":"api"}`)
	vip := formFor(hexA)
	vip.Set("Routing", routingFor(`{"tier":"vip","n":1}`))
	for _, tt := range []struct {
		name           string
		rule           Rule
		sms, chat, vip int
	}{
		{"all", Rule{Fault: Status(503)}, 503, 503, 503},
		{"channel", Rule{Fault: Status(503), Channel: "chat"}, 200, 503, 200},
		{"attribute", Rule{Fault: Status(503), Attribute: "n"}, 200, 200, 503},
		{"value", Rule{Fault: Status(503), Attribute: "tier", Value: "vip"}, 200, 200, 503},
		{"other value", Rule{Fault: Status(503), Attribute: "tier", Value: "basic"}, 200, 200, 200},
		{"once", Rule{Fault: Status(503), Times: 1}, 503, 200, 200},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := New(t)
			s.Inject(tt.rule)
			got := []int{create(t, s, formFor(hexB)).status, create(t, s, chat).status, create(t, s, vip).status}
			if want := []int{tt.sms, tt.chat, tt.vip}; !slices.Equal(got, want) {
				t.Errorf("got %v, want %v", got, want)
			}
			s.Clear()
			if a := create(t, s, formFor(hexB)); a.status != 200 {
				t.Errorf("after Clear: %d", a.status)
			}
		})
	}
}

// TestShare: the same seed meets the same calls, and about the share of them.
func TestShare(t *testing.T) {
	t.Parallel()
	run := func(seed uint64) (met []bool) {
		s := NewWith(t, Config{Seed: seed})
		s.Inject(Rule{Fault: Status(503), Share: 0.3})
		q := wish{}
		for range 1000 {
			met = append(met, s.faults.choose(&q).what != "")
		}
		return met
	}
	first := run(1)
	if !slices.Equal(first, run(1)) || slices.Equal(first, run(2)) {
		t.Error("the dice do not follow the seed")
	}
	n := 0
	for _, met := range first {
		if met {
			n++
		}
	}
	if n < 200 || n > 400 {
		t.Errorf("%d of 1000 met it, want about 300", n)
	}
}

func TestMisspelt(t *testing.T) {
	t.Parallel()
	defer func() {
		if recover() == nil {
			t.Error("a fault that does not exist was taken")
		}
	}()
	New(t).Next("rest")
}
