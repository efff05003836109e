package main

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"flexworker/internal/outbox/operator"
	"flexworker/internal/outbox/request"
	"flexworker/internal/testing/expect"
)

// TestActsArePublishedAtOnce: the Publisher of a worker hears of acts in its own process, those of senders and those of the
// page and the API. No poll runs here, which else finds their results seconds later.
func TestActsArePublishedAtOnce(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	a := &app{cfg: r.config(), log: slog.New(slog.NewTextHandler(t.Output(), nil)), state: newState()}
	t.Cleanup(a.close)
	if err := a.build(t.Context(), "w1"); err != nil {
		t.Fatal(err)
	}
	for i, id := range []string{"by-sender", "by-person"} {
		for again := range uint64(2) { // each is asked for twice, so that two answers are owed
			e := request.Event{RequestID: id, NotBefore: time.Now().Add(time.Hour), Request: requestOf(id), Message: request.Message{
				Stream: "INTERACTION_REQUESTS", Subject: "interactions.requests.crm", Source: "crm", Sequence: uint64(i)*2 + again + 1, Time: time.Now()}}
			e.Raw = e.Request
			if _, err := a.store.Add(t.Context(), e); err != nil {
				t.Fatal(err)
			}
		}
	}
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	var publishing sync.WaitGroup
	publishing.Go(func() { a.publisher.Run(ctx) })
	t.Cleanup(func() { stop(); publishing.Wait() })

	why, in := operator.Act{Why: "a test"}, r.read()
	if done, err := a.senders.Desk.For(operator.Sender("crm")).CancelOwn(t.Context(), "by-sender", why); err != nil || !done.Cancelled {
		t.Fatal(done, err)
	}
	person := a.desk.For(operator.Caller{Name: "ann", Right: operator.MayAct})
	if done, err := person.Do(t.Context(), operator.ToCancel(), why, operator.Filter{RequestIDs: []string{"by-person"}}); err != nil || done.N != 1 {
		t.Fatal(done, err)
	}
	expect.Eventually(t, func() error {
		answers := map[string]int{}
		for _, result := range in.list() {
			answers[result.Body.Outcome+" "+result.Body.RequestID]++
		}
		return expect.Is("answers", fmt.Sprint(answers), fmt.Sprint(map[string]int{"cancelled by-sender": 2, "cancelled by-person": 2}))
	})
}
