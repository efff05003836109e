package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"flexworker/internal/testing/expect"
	"flexworker/internal/testing/flextest"
)

// wordOf is the word that a fate must lead to.
func wordOf(fate flextest.Fate) string {
	switch fate {
	case flextest.ChannelFailed, flextest.NoCustomer, flextest.TaskCanceled:
		return "setup_failed"
	case flextest.Stuck:
		return "unconfirmed"
	default:
		return "confirmed"
	}
}

// words are the messages about set-ups, by request id.
func (in *reader) words() map[string][]result {
	words := map[string][]result{}
	for _, m := range in.list() {
		if o := m.Body.Outcome; o == "confirmed" || o == "setup_failed" || o == "unconfirmed" {
			words[m.Body.RequestID] = append(words[m.Body.RequestID], m)
		}
	}
	return words
}

// judgeWords holds the words against the ledger of Flex: each interaction has exactly one message, and the right one.
func (r *rig) judgeWords(in *reader) {
	r.t.Helper()
	words := in.words()
	for _, e := range r.flex.Ledger() {
		switch got := words[e.TestID]; {
		case len(got) != 1:
			r.t.Errorf("%s has %d messages about its set-up", e.TestID, len(got))
		case got[0].Body.Outcome != wordOf(e.Fate) || got[0].Body.InteractionSID != e.InteractionSID ||
			got[0].Subject != "interactions.results."+wordOf(e.Fate)+".crm":
			r.t.Errorf("%s is %s on %s, its fate was %q", e.TestID, got[0].Body.Outcome, got[0].Subject, e.Fate)
		}
		delete(words, e.TestID)
	}
	for id := range words {
		r.t.Errorf("%s was not created and has a message about its set-up", id)
	}
}

// hasten lets the looks that wait be due as if so much time had passed, again and again.
func (r *rig) hasten(ctx context.Context) {
	for ctx.Err() == nil {
		_, _ = r.pool.Exec(ctx, `UPDATE outbox_setups SET created_at = created_at - interval '20 s', due_at = due_at - interval '20 s' WHERE word IS NULL`)
		select {
		case <-ctx.Done():
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// TestConfirm: with CONFIRM=true two replicas publish one word for each created request, the one that its fate asks for; who
// runs without says nothing.
func TestConfirm(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.flex.Set(flextest.Settings{SetupFates: flextest.SetupFates{ChannelFailed: .15, NoCustomer: .15, TaskCanceled: .15, Stuck: .15}})
	in := r.read()
	cfg := r.unhurried()
	cfg.Confirm, cfg.ConfirmRate = true, 500
	r.start(cfg)
	second := r.unhurried()
	second.Confirm, second.ConfirmRate = true, 500
	r.start(second)
	r.flex.Script("w-3", flextest.CreateThenReset) // is found by a lookup
	r.flex.Script("w-4", flextest.Status(400))     // is rejected: no word
	r.send("w", 0, 60)
	r.eventually(func() error { return expect.Is("results", in.ended(), 60) })
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go r.hasten(ctx)
	r.eventually(func() error { return expect.Is("requests with a word", len(in.words()), 59) })
	cancel()
	r.eventually(func() error {
		return expect.Is("words not published", r.count(`SELECT count(*) FROM outbox_setups WHERE published_at IS NULL`), 0)
	})
	r.judgeWords(in)
	if n := len(r.flex.Ledger()); n != 59 {
		t.Errorf("%d interactions", n)
	}
	r.eventually(func() error { // a word may be published before its replica has counted it
		sum := 0
		for _, address := range []string{cfg.AdminAddr, second.AdminAddr} {
			for _, w := range []string{"confirmed", "setup_failed", "unconfirmed"} {
				sum += int(r.metric(address, fmt.Sprintf(`flexworker_setups_total{word=%q}`, w)))
			}
		}
		return expect.Is("words that the metrics count", sum, 59)
	})
	for _, address := range []string{cfg.AdminAddr, second.AdminAddr} {
		if on := r.metric(address, "flexworker_confirmation"); on != 1 {
			t.Errorf("flexworker_confirmation %v", on)
		}
	}
}

// metric is one value of a replica's metrics; -1: it is not there.
func (r *rig) metric(address, name string) float64 {
	r.t.Helper()
	response, err := http.Get("http://" + address + "/metrics")
	if err != nil {
		r.t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	for line := range strings.Lines(string(body)) {
		if value, ok := strings.CutPrefix(strings.TrimSpace(line), name+" "); ok {
			var v float64
			if _, err := fmt.Sscan(value, &v); err != nil {
				r.t.Fatal(err)
			}
			return v
		}
	}
	return -1
}
