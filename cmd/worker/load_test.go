package main

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"flexworker/internal/testing/expect"
)

// load is senders that publish one request after the other, 50 a second, each
// until the stream has acknowledged it, as senders do who must not lose one.
type load struct {
	begun   atomic.Int64 // requests that somebody began to send
	end     context.CancelFunc
	sending sync.WaitGroup
}

// load starts sending; the caller ends it.
func (r *rig) load() *load {
	ctx, cancel := context.WithCancel(r.t.Context())
	l := &load{end: cancel}
	l.sending.Go(func() {
		next := time.NewTicker(20 * time.Millisecond)
		defer next.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-next.C:
			}
			id := fmt.Sprintf("load-%d", l.begun.Add(1))
			l.sending.Go(func() { r.insist(id) })
		}
	})
	r.t.Cleanup(func() { cancel(); l.sending.Wait() })
	return l
}

// insist publishes one request until it is acknowledged. Its message id makes
// the stream drop what it had stored without our hearing of it.
func (r *rig) insist(id string) {
	again := time.NewTicker(200 * time.Millisecond)
	defer again.Stop()
	for r.t.Context().Err() == nil {
		if _, err := r.js.Publish(r.t.Context(), "interactions.requests.crm", requestOf(id), jetstream.WithMsgID(id)); err == nil {
			return
		}
		select {
		case <-r.t.Context().Done():
		case <-again.C:
		}
	}
}

// stop ends the load once all of it is acknowledged, and says how much it was.
func (l *load) stop() int {
	l.end()
	l.sending.Wait()
	return int(l.begun.Load())
}

// watch asks /readyz and /healthz ten times a second until the returned function
// is called. It says how often they were asked, and what they said but for want
// and "ok".
func (r *rig) watch(address, want string) func() (asked int, other []string) {
	ctx, cancel := context.WithCancel(r.t.Context())
	var asked int
	var other []string
	var watching sync.WaitGroup
	watching.Go(func() {
		again := time.NewTicker(100 * time.Millisecond)
		defer again.Stop()
		for {
			if got, code, err := word(address); err != nil || fmt.Sprint(got, " ", code) != want {
				other = append(other, fmt.Sprintf("readyz: %s %d %v", got, code, err))
			}
			if response, err := http.Get("http://" + address + "/healthz"); err != nil {
				other = append(other, err.Error())
			} else if response.Body.Close(); response.StatusCode != http.StatusOK {
				other = append(other, "healthz: "+response.Status)
			}
			asked++
			select {
			case <-ctx.Done():
				return
			case <-again.C:
			}
		}
	})
	stop := func() (int, []string) { cancel(); watching.Wait(); return asked, other }
	r.t.Cleanup(func() { stop() })
	return stop
}

// lasts waits for d and for so many more requests of the load, while the worker
// has to live on.
func (w *replica) lasts(t *testing.T, d time.Duration, l *load, more int64) {
	t.Helper()
	until, enough := time.NewTimer(d), l.begun.Load()+more
	defer until.Stop()
	select {
	case <-until.C:
	case <-w.done:
		t.Fatalf("the outage ended the process: %v", w.err)
	}
	expect.Eventually(t, func() error { return expect.Is("enough is sent", l.begun.Load() >= enough, true) })
}

// goesOn waits until twenty requests more than there were have their final result.
func (in *reader) goesOn() {
	in.rig.t.Helper()
	enough := in.ended() + 20
	in.rig.eventually(func() error {
		if n := in.ended(); n < enough {
			return fmt.Errorf("%d results, want %d", n, enough)
		}
		return nil
	})
}
