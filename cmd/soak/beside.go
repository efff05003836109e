package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"flexworker/internal/testing/faultproxy"
	"flexworker/internal/testing/flextest"
)

// beside is what surrounds the plain consumer: streams and an endpoint of its own. It gets one request in ten, the
// ordinary ones among them, each asked once; what strikes a replica, NATS or Flex strikes the plain consumer in the same
// moment.
type beside struct {
	flex *flextest.Server
	book *book // of its processes alone: an account is not held by it

	mu    sync.Mutex
	asked map[string]bool // acknowledged
	left  uint64          // messages that were not acked in the end
}

const (
	oneIn         = 10
	plainRequests = "PLAIN_REQUESTS"
	plainResults  = "PLAIN_RESULTS"
	plainLimit    = 5 * time.Minute // for what is left when all is healed
)

// plainResult is what the plain consumer publishes.
type plainResult struct {
	ID      string `json:"request_id"`
	Outcome string `json:"outcome"`
	SID     string `json:"interaction_sid,omitempty"`
}

func startBeside(ctx context.Context, stream jetstream.JetStream, seed uint64) (*beside, error) {
	for name, subject := range map[string]string{plainRequests: "plain.requests", plainResults: "plain.results"} {
		if _, err := stream.CreateStream(ctx, jetstream.StreamConfig{Name: name, Subjects: []string{subject}, Duplicates: 10 * time.Minute}); err != nil {
			return nil, err
		}
	}
	port, err := faultproxy.FreePort()
	if err != nil {
		return nil, err
	}
	flex, err := flextest.Start(flextest.Config{Addr: fmt.Sprintf("127.0.0.1:%d", port), Seed: seed, Keep: 1, Settings: usual})
	return &beside{flex: flex, book: newBook(), asked: map[string]bool{}}, err
}

// place is where a plain consumer runs.
func (b *beside) place(number int, queue, folder string) (*replica, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	r := &replica{number: number, program: self, book: b.book, log: &logFile{path: filepath.Join(folder, fmt.Sprintf("plain-%d.log", number))}}
	r.proxies, err = ways(map[string]string{"nats": queue, "flex": b.flex.Addr()})
	if err == nil {
		r.env = []string{plainQueue + "=" + r.proxies["nats"].Addr(), plainEndpoint + "=" + r.proxies["flex"].Addr()}
	}
	return r, err
}

// onFlexes does the same to both endpoints.
func (w *world) onFlexes(do func(*flextest.Server)) {
	do(w.flex)
	do(w.beside.flex)
}

func (w *world) set(settings flextest.Settings) {
	w.onFlexes(func(s *flextest.Server) { s.Set(settings) })
}

func (w *world) up() error { return errors.Join(w.flex.Up(), w.beside.flex.Up()) }

// inject puts a rule into force at both; where it is met so many times, at the other one in proportion.
func (w *world) inject(r flextest.Rule) {
	w.flex.Inject(r)
	r.Times = (r.Times + oneIn - 1) / oneIn
	w.beside.flex.Inject(r)
}

// acknowledged notes that NATS has taken a request for the plain consumer.
func (b *beside) acknowledged(id string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.asked[id] = true
}

// drain waits until the plain consumer has acked all that it was asked.
func (b *beside) drain(ctx context.Context, stream jetstream.JetStream) {
	limit, cancel := context.WithTimeout(ctx, plainLimit)
	defer cancel()
	for {
		c, err := stream.Consumer(limit, plainRequests, "plain")
		if err == nil {
			b.left = c.CachedInfo().NumPending + uint64(c.CachedInfo().NumAckPending)
		}
		if err == nil && b.left == 0 || !rest(limit, 300*time.Millisecond) {
			return
		}
	}
}

// plainCounts is the account of the plain consumer.
type plainCounts struct {
	requests, creates                      int
	twice, never, unanswered, wrong, extra int
}

// judge holds what was asked, what was answered and the ledger of its endpoint against each other.
func (b *beside) judge(ctx context.Context, stream jetstream.JetStream) (c plainCounts, err error) {
	answers, err := b.answers(ctx, stream)
	if err != nil {
		return c, err
	}
	created := map[string][]string{}
	for n := 0; ; {
		entries := b.flex.Since(n, 1000)
		for _, e := range entries {
			created[e.TestID] = append(created[e.TestID], e.InteractionSID)
		}
		if n += len(entries); len(entries) == 0 {
			break
		}
	}
	for id := range b.asked {
		c.requests++
		made := created[id]
		c.creates += len(made)
		answer, answered := answers[id]
		switch {
		case len(made) == 0:
			c.never++
		case len(made) > 1:
			c.twice++
			c.extra += len(made) - 1
		}
		if !answered {
			c.unanswered++
		} else if (answer.Outcome == "created") != (len(made) > 0) {
			c.wrong++
		}
	}
	return c, nil
}

// answers are the plain consumer's results.
func (b *beside) answers(ctx context.Context, stream jetstream.JetStream) (map[string]plainResult, error) {
	all := map[string]plainResult{}
	s, err := stream.Stream(ctx, plainResults)
	if err != nil {
		return nil, err
	}
	c, err := stream.OrderedConsumer(ctx, plainResults, jetstream.OrderedConsumerConfig{})
	if err != nil {
		return nil, err
	}
	for n := s.CachedInfo().State.Msgs; n > 0; {
		batch, err := c.Fetch(int(min(n, 500)), jetstream.FetchMaxWait(10*time.Second))
		if err != nil {
			return nil, err
		}
		for m := range batch.Messages() {
			var r plainResult
			if err := json.Unmarshal(m.Data(), &r); err != nil {
				return nil, err
			}
			all[r.ID] = r
			n--
		}
		if batch.Error() != nil {
			return nil, batch.Error()
		}
	}
	return all, nil
}
