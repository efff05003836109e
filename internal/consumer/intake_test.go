package consumer

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"flexworker/internal/outbox"
	"flexworker/internal/outbox/request"
	"flexworker/internal/testing/expect"
	"flexworker/internal/testing/faultproxy"
)

// A slowStore is Postgres standing still: each Add waits for its answer, and goes
// on to Postgres when that is nil. After release all of them do.
type slowStore struct {
	Store
	answers chan error
	release func()
	waiting atomic.Int64
}

func (s *slowStore) Add(ctx context.Context, e request.Event) (outbox.Added, error) {
	s.waiting.Add(1)
	err := <-s.answers
	s.waiting.Add(-1)
	if err != nil {
		return 0, err
	}
	return s.Store.Add(ctx, e)
}

// full runs a replica that has 4 messages in hand, for whose rows Postgres does
// not answer, and more of them prefetched.
func (w *world) full() (c *Consumer, store *slowStore, stop func()) {
	w.t.Helper()
	c = w.consumer(4)
	store, stop = w.fill(c)
	return c, store, stop
}

// fill is full for a replica of the test's own making, which takes 4.
func (w *world) fill(c *Consumer) (store *slowStore, stop func()) {
	w.t.Helper()
	w.sendMany("a", 20)
	store = &slowStore{Store: c.Store, answers: make(chan error)}
	store.release = sync.OnceFunc(func() { close(store.answers) })
	c.Store = store
	stop = w.run(c)
	w.t.Cleanup(store.release)
	expect.Eventually(w.t, func() error {
		return errors.Join(expect.Is("adds that wait", store.waiting.Load(), 4), expect.Is("some are prefetched", w.info().NumAckPending > 5, true))
	})
	if n := w.info().NumAckPending; n > 2*c.Prefetch {
		w.t.Errorf("%d are delivered to a replica that has %d in hand", n, c.Prefetch)
	}
	return store, stop
}

// others takes n messages as another replica does, and gives them back.
func (w *world) others(n int) {
	w.t.Helper()
	other, err := w.js.Consumer(w.t.Context(), w.names.Stream, w.names.Consumer)
	if err != nil {
		w.t.Fatal(err)
	}
	batch, err := other.Fetch(n, jetstream.FetchMaxWait(ackWait/4))
	if err != nil {
		w.t.Fatal(err)
	}
	var got []jetstream.Msg
	for m := range batch.Messages() {
		got = append(got, m)
	}
	if err := errors.Join(batch.Error(), expect.Is("messages that another replica gets", len(got), n)); err != nil {
		w.t.Error(err)
	}
	for _, m := range got { // not before: they would come again to this very batch
		meta, err := m.Metadata()
		if err == nil && meta.NumDelivered > 2 {
			w.t.Errorf("message %d was delivered %d times", meta.Sequence.Stream, meta.NumDelivered)
		}
		if err := errors.Join(err, m.Nak()); err != nil {
			w.t.Error(err)
		}
	}
}

// TestFullStops: what is only prefetched goes to another replica at once, while
// what is in hand still waits for Postgres.
func TestFullStops(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c, store, stop := w.full()
	stopped := make(chan struct{})
	go func() { stop(); close(stopped) }()
	w.others(16)
	if n := store.waiting.Load(); n != 4 {
		t.Errorf("%d are in hand, want 4", n)
	}
	store.release()
	<-stopped
	if n := c.Counters.Added[outbox.Accepted].Load(); n != 4 {
		t.Errorf("%d were stored when Run returned, want 4", n)
	}
	w.run(w.consumer(4))
	w.rows(20)
	w.acked()
}

// TestFullPostgresAway: of what is prefetched nothing waits for AckWait until
// Postgres is back; what is in hand is kept.
func TestFullPostgresAway(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c, store, _ := w.full()
	store.answers <- errors.New("connection refused")
	w.others(16)
	store.release()
	w.rows(20)
	w.acked()
	if n := c.Counters.Attached.Load(); n != 2 {
		t.Errorf("attached %d times, want 2", n)
	}
}

// TestFullConsumerDeleted, and then Postgres away: nothing waits for a consumer
// that is gone, and all is delivered anew.
func TestFullConsumerDeleted(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c, store, _ := w.full()
	if err := w.js.DeleteConsumer(t.Context(), w.names.Stream, w.names.Consumer); err != nil {
		t.Fatal(err)
	}
	store.answers <- errors.New("connection refused")
	expect.Eventually(t, func() error { return expect.Is("some are given back", c.Counters.GivenBack.Load() > 1, true) })
	store.release()
	w.rows(20)
	w.acked()
}

// TestFullStopsWithoutNATS: the server is out of reach for good, so that Drain
// hears nothing. Run returns all the same, once what is in hand is stored. How many
// that are is chance: what the server delivered may be on the line for good.
func TestFullStopsWithoutNATS(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	line := faultproxy.New(t, w.nats.Addr())
	conn, err := nats.Connect("nats://"+line.Addr(), nats.MaxReconnects(-1))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	c := w.consumer(4)
	if c.Stream, err = jetstream.New(conn); err != nil {
		t.Fatal(err)
	}
	store, stop := w.fill(c)
	line.Blackhole()
	stopped := make(chan struct{})
	go func() { stop(); close(stopped) }()
	store.release()
	<-stopped
	stored := int(c.Counters.Added[outbox.Accepted].Load())
	if stored < 4 {
		t.Errorf("%d were stored when Run returned, want the 4 in hand", stored)
	}
	w.rows(stored)
}

// TestSlowConsumerOfTheClient, which runs beside no other since it moves 85 MB: the client asks anew for as much as it may have, each two seconds, when the line broke while all are
// in hand that may be. What is beyond its 64 MiB it drops, and says so. It comes again after AckWait.
func TestSlowConsumerOfTheClient(t *testing.T) {
	const all, inHand = 85, 16
	w := newWorld(t)
	w.shortestAckWait()
	line := faultproxy.New(t, w.nats.Addr())
	dropped := make(chan struct{})
	once := sync.OnceFunc(func() { close(dropped) })
	conn, err := nats.Connect("nats://"+line.Addr(), nats.MaxReconnects(-1), nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
		if errors.Is(err, nats.ErrSlowConsumer) {
			once()
		}
	}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	c := w.consumer(inHand)
	if c.Stream, err = jetstream.New(conn); err != nil {
		t.Fatal(err)
	}
	store := &slowStore{Store: c.Store, answers: make(chan error)}
	store.release = sync.OnceFunc(func() { close(store.answers) })
	c.Store = store
	w.run(c)
	t.Cleanup(store.release)
	for i := range all {
		w.send(withID(fmt.Sprintf(`"large-%d"`, i))+strings.Repeat(" ", 1000<<10), nil) // it is their size alone that counts
	}
	expect.Eventually(t, func() error { return expect.Is("adds that wait", store.waiting.Load(), inHand) })
	line.Cut()
	select {
	case <-dropped:
	case <-time.After(expect.Patience):
		t.Fatal("the client has dropped nothing")
	}
	store.release()
	// On a busy machine some of them are dropped more than once, each time for AckWait. So each next one has its own patience.
	for stored := 0; stored < all; {
		expect.Eventually(t, func() error {
			before := stored
			if stored = w.count(`SELECT count(*) FROM outbox`); stored == before {
				return fmt.Errorf("%d of %d are stored", stored, all)
			}
			return nil
		})
	}
	w.acked()
}

// unbound is a message that cannot be acked.
type unbound struct{ jetstream.Msg }

func (unbound) Ack() error                      { return jetstream.ErrMsgNotBound }
func (unbound) DoubleAck(context.Context) error { return jetstream.ErrMsgNotBound }

// TestAckOneFails: of those that are acked together only that one comes again.
func TestAckOneFails(t *testing.T) {
	t.Parallel()
	for _, at := range []int{0, 2, 4} {
		t.Run(fmt.Sprint(at), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.sendMany("a", 5)
			c := w.consumer(8)
			opened, err := c.Names.Open(t.Context(), c.Stream)
			if err != nil {
				t.Fatal(err)
			}
			batch, err := opened.Fetch(5)
			if err != nil {
				t.Fatal(err)
			}
			var stored []jetstream.Msg
			for m := range batch.Messages() {
				if len(stored) == at {
					m = unbound{m}
				}
				stored = append(stored, m)
			}
			failed, err := c.newIntake(t.Context()).ack(t.Context(), stored)
			for i, own := range failed {
				// Without the last one's confirmation nobody's ack is known to have come.
				if want := i == at || at == 4; errors.Is(errors.Join(own, err), jetstream.ErrMsgNotBound) != want {
					t.Errorf("%d: %v, %v", i, own, err)
				}
			}
			expect.Eventually(t, func() error { return expect.Is("unacked", w.info().NumAckPending, 1) })
		})
	}
}
