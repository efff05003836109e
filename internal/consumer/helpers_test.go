package consumer

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"flexworker/internal/database"
	"flexworker/internal/outbox"
	"flexworker/internal/testing/expect"
	"flexworker/internal/testing/natstest"
	"flexworker/internal/testing/pgtest"
	"flexworker/migrations"
)

var migrated = pgtest.NewTemplate(migrations.Up)

func TestMain(m *testing.M) { os.Exit(pgtest.Run(m)) }

// world is one stream and one database, with a client that publishes.
type world struct {
	t     *testing.T
	nats  *natstest.Server
	conn  *nats.Conn
	js    jetstream.JetStream
	pool  *pgxpool.Pool
	names Names
}

func newWorld(t *testing.T) *world {
	t.Helper()
	return worldOn(t, migrated.NewPool(t, database.ForLoops))
}

// worldOn is a world on a database of the test's own.
func worldOn(t *testing.T, pool *pgxpool.Pool) *world {
	t.Helper()
	return worldWith(t, pool, natstest.Options{})
}

// worldWith is a world whose NATS server has options of its own.
func worldWith(t *testing.T, pool *pgxpool.Pool, o natstest.Options) *world {
	t.Helper()
	w := &world{t: t, nats: natstest.New(t, o), pool: pool,
		names: Names{Stream: "REQUESTS", Subject: "requests", Consumer: "worker", Create: true}}
	w.conn = w.nats.Connect(t)
	var err error
	if w.js, err = jetstream.New(w.conn, natstest.Unhurried()); err != nil {
		t.Fatal(err)
	}
	if err := w.names.createStream(t.Context(), w.js); err != nil {
		t.Fatal(err)
	}
	return w
}

// shortestAckWait makes the consumer, before a replica does, with the shortest
// AckWait that the worker starts with: what was sent and got lost on the way comes
// again within the test's patience.
func (w *world) shortestAckWait() {
	w.t.Helper()
	config := w.names.config()
	config.AckWait = 10 * time.Second
	if _, err := w.js.CreateConsumer(w.t.Context(), w.names.Stream, config); err != nil {
		w.t.Fatal(err)
	}
}

// consumer is a replica, with a connection and a store of its own.
func (w *world) consumer(prefetch int) *Consumer {
	w.t.Helper()
	js, err := jetstream.New(w.nats.Connect(w.t)) // as the worker has it
	if err != nil {
		w.t.Fatal(err)
	}
	return &Consumer{Stream: js, Names: w.names, Store: outbox.NewStore(w.pool, "test", time.Second, "interaction_request"), Attribute: "interaction_request",
		Prefetch: prefetch, Log: slog.New(slog.NewTextHandler(w.t.Output(), nil)), Counters: &Counters{}}
}

// run starts a replica, waits until it consumes, and returns what stops it and
// waits for its end; the test's end does the same.
func (w *world) run(c *Consumer) (stop func()) {
	w.t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(w.t.Context()))
	done := make(chan struct{})
	go func() {
		defer close(done)
		c.Run(ctx)
	}()
	stop = func() {
		cancel()
		select {
		case <-done:
		case <-time.After(expect.Patience):
			w.t.Error("Run does not return")
		}
	}
	w.t.Cleanup(stop)
	expect.Eventually(w.t, func() error { return expect.Is("attached", c.Counters.Attached.Load() > 0, true) })
	return stop
}

// send publishes one message and returns its sequence.
func (w *world) send(body string, h headers) uint64 {
	w.t.Helper()
	m := nats.NewMsg("requests.crm")
	m.Data, m.Header = []byte(body), nats.Header(h)
	ack, err := w.js.PublishMsg(w.t.Context(), m)
	if err != nil {
		w.t.Fatal(err)
	}
	return ack.Sequence
}

// sendMany publishes n good requests, named prefix-0 and so on.
func (w *world) sendMany(prefix string, n int) {
	w.t.Helper()
	sent := make([]jetstream.PubAckFuture, n)
	for i := range n {
		var err error
		if sent[i], err = w.js.PublishAsync("requests.crm", []byte(withID(fmt.Sprintf(`"%s-%d"`, prefix, i)))); err != nil {
			w.t.Fatal(err)
		}
	}
	w.published()
	for _, s := range sent {
		select {
		case err := <-s.Err(): // which completes it as well
			w.t.Fatal(err)
		case <-s.Ok():
		}
	}
}

// published waits until the stream has everything.
func (w *world) published() {
	w.t.Helper()
	select {
	case <-w.js.PublishAsyncComplete():
	case <-time.After(expect.Patience):
		w.t.Fatal("the stream does not acknowledge")
	}
}

// count runs a query for one number.
func (w *world) count(sql string, args ...any) int {
	w.t.Helper()
	return pgtest.One[int](w.t, w.pool, sql, args...)
}

// exec runs a statement that a test needs to make time.
func (w *world) exec(sql string) {
	w.t.Helper()
	pgtest.Exec(w.t, w.pool, sql)
}

// rows asks for a number of requests.
func (w *world) rows(want int) {
	w.t.Helper()
	expect.Eventually(w.t, func() error {
		var n int // a connection may be one of before an outage
		if err := w.pool.QueryRow(w.t.Context(), `SELECT count(*) FROM outbox`).Scan(&n); err != nil {
			return err
		}
		return expect.Is("requests", n, want)
	})
}

func (w *world) malformed() int { return w.count(`SELECT count(*) FROM outbox_malformed`) }

// info is the consumer as the server knows it. A busy server may let one question wait for longer than
// the client's five seconds: it is asked again.
func (w *world) info() (info *jetstream.ConsumerInfo) {
	w.t.Helper()
	expect.Eventually(w.t, func() error {
		c, err := w.js.Consumer(w.t.Context(), w.names.Stream, w.names.Consumer)
		if err == nil {
			info = c.CachedInfo()
		}
		return err
	})
	return info
}

// acked waits until nothing is pending and everything is acknowledged: for each message as long as for any step, since how long
// all of them take is up to the machine.
func (w *world) acked() {
	w.t.Helper()
	left := func() int {
		i := w.info()
		return i.NumAckPending + int(i.NumPending)
	}
	for had := left(); had > 0; had = left() {
		expect.Eventually(w.t, func() error {
			if now := left(); now >= had {
				return fmt.Errorf("%d are not acknowledged, as before", now)
			}
			return nil
		})
	}
}

// late is how the log says that NATS was slower than a look waits for it. That is a word about the machine of the tests.
const late = `msg="no messages come" error="the server does not answer when it is asked`

// block keeps every insert waiting until the returned function is called.
func (w *world) block() (release func()) {
	w.t.Helper()
	tx, err := w.pool.Begin(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	// Readers pass, so that Ready and the test itself can ask.
	if _, err := tx.Exec(w.t.Context(), `LOCK TABLE outbox IN EXCLUSIVE MODE`); err != nil {
		w.t.Fatal(err)
	}
	release = func() { _ = tx.Rollback(context.WithoutCancel(w.t.Context())) } // a second time it says that it is over
	w.t.Cleanup(release)
	return release
}

// newServer is a server without a stream.
func newServer(t *testing.T) jetstream.JetStream {
	t.Helper()
	js, err := jetstream.New(natstest.New(t, natstest.Options{}).Connect(t), natstest.Unhurried())
	if err != nil {
		t.Fatal(err)
	}
	return js
}

// newStream is a server with the request stream, and no database.
func newStream(t *testing.T, names Names) jetstream.JetStream {
	t.Helper()
	js := newServer(t)
	if err := names.createStream(t.Context(), js); err != nil {
		t.Fatal(err)
	}
	return js
}
