package consumer

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go/jetstream"

	"flexworker/internal/outbox"
	"flexworker/internal/testing/expect"
)

// hold keeps what sql locks, as somebody in psql does, until the returned function is called.
func (w *world) hold(sql string) (release func()) {
	w.t.Helper()
	tx, err := w.pool.Begin(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	release = func() { _ = tx.Rollback(context.WithoutCancel(w.t.Context())) } // a second time it says that it is over
	w.t.Cleanup(release)
	if _, err := tx.Exec(w.t.Context(), sql); err != nil {
		w.t.Fatal(err)
	}
	return release
}

// TestRowLocked: a message whose request somebody holds locked waits, and nobody else. It is no
// outage: nothing is given back, and the intake stays open.
func TestRowLocked(t *testing.T) {
	t.Parallel()
	for name, sql := range map[string]string{
		"for update": `SELECT FROM outbox WHERE request_id = 'old-0' FOR UPDATE`,
		"removed":    `DELETE FROM outbox WHERE request_id = 'old-0'`,
		"written": `INSERT INTO outbox (request_id, source, state, request, due_at, stream_sequence, stream_time)
			VALUES ('new-0', 'crm', 'pending', '{}', now(), 99, now())`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.sendMany("old", 1)
			c := w.consumer(8)
			w.run(c)
			w.acked()
			release := w.hold(sql)
			w.sendMany("old", 1) // asked again
			w.sendMany("new", 1)
			w.sendMany("more", 50)
			expect.Eventually(t, func() error {
				return expect.Is("others", w.count(`SELECT count(*) FROM outbox WHERE request_id LIKE 'more-%'`), 50)
			})
			expect.Eventually(t, func() error { return expect.Is("messages in hand", w.info().NumAckPending, 1) })
			if n, back := c.Counters.Attached.Load(), c.Counters.GivenBack.Load(); n != 1 || back != 0 {
				t.Errorf("attached %d times, %d given back", n, back)
			}
			release()
			w.acked()
			w.rows(52)
			if n := w.count(`SELECT count(*) FROM outbox_repeats`); n != 1 || w.malformed() != 0 {
				t.Errorf("%d repeats, %d malformed", n, w.malformed())
			}
		})
	}
}

// TestManyRowsLocked: where a report holds every row there is, what is asked again does not use
// up the places of what is new.
func TestManyRowsLocked(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.sendMany("old", 10)
	c := w.consumer(8)
	w.run(c)
	w.acked()
	w.hold(`SELECT FROM outbox FOR UPDATE`)
	w.sendMany("old", 10)
	w.sendMany("more", 50)
	expect.Eventually(t, func() error {
		return expect.Is("others", w.count(`SELECT count(*) FROM outbox WHERE request_id LIKE 'more-%'`), 50)
	})
	if n := c.Counters.Attached.Load(); n != 1 {
		t.Errorf("attached %d times", n)
	}
}

// impatient is a replica that waits for no lock longer than a moment.
func (w *world) impatient(prefetch int) *Consumer {
	w.t.Helper()
	config := w.pool.Config()
	config.ConnConfig.RuntimeParams["lock_timeout"] = "100ms"
	pool, err := pgxpool.NewWithConfig(w.t.Context(), config)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(pool.Close)
	c := w.consumer(prefetch)
	c.Store = outbox.NewStore(pool, "test", time.Second, "interaction_request")
	return c
}

// TestTableBesideLocked: while somebody holds a table beside outbox as a whole, the messages that need it wait,
// unacked. All others are stored and acked, and the intake stays open. Those that waited follow once it is free.
func TestTableBesideLocked(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		sql         string
		least, most int // wait
	}{
		"malformed":                   {`LOCK TABLE outbox_malformed IN ACCESS EXCLUSIVE MODE`, 4, 4}, // the repeat, too: it may have been answered as malformed
		"malformed, an index is made": {`LOCK TABLE outbox_malformed IN SHARE MODE`, 3, 4},            // it can still be read
		"repeats":                     {`LOCK TABLE outbox_repeats IN ACCESS EXCLUSIVE MODE`, 1, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.sendMany("old", 1)
			c := w.impatient(16)
			w.run(c)
			w.acked()
			release := w.hold(tt.sql)
			w.send("not JSON", nil)
			w.sendMany("old", 1) // asked again
			w.sendMany("new", 20)
			w.send(`{"request_id":"old-0","channel":{"type":"web"},"routing":{}}`, nil) // a conflict
			w.send("not JSON either", nil)
			w.sendMany("more", 50)
			w.rows(71)
			expect.Eventually(t, func() error {
				if n := w.info().NumAckPending; n < tt.least || n > tt.most {
					return fmt.Errorf("%d messages are in hand", n)
				}
				return nil
			})
			if n, back := c.Counters.Attached.Load(), c.Counters.GivenBack.Load(); n != 1 || back != 0 {
				t.Errorf("attached %d times, %d given back", n, back)
			}
			release()
			w.acked()
			w.rows(71)
			if n := w.count(`SELECT count(*) FROM outbox_repeats`); n != 1 || w.malformed() != 3 {
				t.Errorf("%d repeats, %d malformed", n, w.malformed())
			}
		})
	}
}

// TestManyBesideLocked: any number of malformed messages that wait for their table does not use up the places of what
// is new, and none of them is acked or lost.
func TestManyBesideLocked(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c := w.impatient(8)
	w.run(c)
	w.hold(`LOCK TABLE outbox_malformed IN ACCESS EXCLUSIVE MODE`)
	for range 20 {
		w.send("not JSON", nil)
	}
	w.sendMany("more", 50)
	w.rows(50)
	expect.Eventually(t, func() error { return expect.Is("unacked", w.info().NumAckPending, 20) })
	if n := c.Counters.Attached.Load(); n != 1 {
		t.Errorf("attached %d times", n)
	}
}

// delivered is a message that came so often.
type delivered struct {
	jetstream.Msg
	times uint64
}

func (d delivered) Metadata() (*jetstream.MsgMetadata, error) {
	return &jetstream.MsgMetadata{NumDelivered: d.times}, nil
}

// TestComesAgain: a message that waits for a lock comes later each time, so that its deliveries last for hours.
func TestComesAgain(t *testing.T) {
	t.Parallel()
	var all time.Duration
	for n := range uint64(maxDeliver) {
		delay := comesAgain(delivered{times: n + 1})
		if delay < lockedDelay || delay > lockedMost {
			t.Errorf("after delivery %d it comes again in %v", n+1, delay)
		}
		all += delay
	}
	if first := comesAgain(delivered{times: 1}); first != lockedDelay || all < 2*time.Hour {
		t.Errorf("it comes again in %v, and is given up after %v", first, all)
	}
}

// TestOutageBesideLocked: the intake that an outage closes does not wait for a message whose row, or table,
// somebody holds: that one comes again, and the others go on once the outage is over.
func TestOutageBesideLocked(t *testing.T) {
	t.Parallel()
	for name, sql := range map[string]string{
		"row":   `SELECT FROM outbox WHERE request_id = 'old-0' FOR UPDATE`,
		"table": `LOCK TABLE outbox_malformed IN ACCESS EXCLUSIVE MODE`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.sendMany("old", 1)
			c := w.impatient(8)
			w.run(c)
			w.acked()
			w.hold(sql)
			w.sendMany("old", 1) // asked again
			expect.Eventually(t, func() error { return expect.Is("messages in hand", w.info().NumAckPending, 1) })
			over := w.hold(`LOCK TABLE outbox IN SHARE MODE`)
			w.sendMany("more", 20)
			expect.Eventually(t, func() error { return expect.Is("taking", c.attached.Load() != nil, false) })
			over()
			w.rows(21)
			if n := c.Counters.Attached.Load(); n != 2 {
				t.Errorf("attached %d times", n)
			}
		})
	}
}

// TestLostMessages: however many are given up while one is stored, none is forgotten, and each has its turn at its time.
func TestLostMessages(t *testing.T) {
	t.Parallel()
	const many = 2000
	now := time.Now()
	lost := lostMessages{come: make(chan struct{}, 1)}
	for n := range uint64(many) {
		lost.add(n+1, now.Add(time.Duration(n%7)*time.Millisecond))
	}
	if _, rest := lost.next(now.Add(-time.Second)); rest != time.Second {
		t.Errorf("the first rests for %v, want a second", rest)
	}
	given, latest, before := map[uint64]bool{}, uint64(0), uint64(0)
	for range many {
		sequence, rest := lost.next(now.Add(time.Second))
		if rest != 0 || sequence == 0 || given[sequence] {
			t.Fatalf("message %d, which rests for %v, after %d", sequence, rest, len(given))
		}
		turn := (sequence - 1) % 7
		if turn < latest {
			t.Fatalf("message %d comes behind those of %d ms", sequence, latest)
		}
		if turn == latest && sequence < before {
			t.Fatalf("message %d comes behind %d, which came later", sequence, before)
		}
		latest, before, given[sequence] = turn, sequence, true
	}
	if sequence, rest := lost.next(now.Add(time.Second)); sequence != 0 || rest < time.Minute {
		t.Errorf("when all are gone there is %d, which rests for %v", sequence, rest)
	}
}

// TestLostBesideLocked: of the messages that the server has given up delivering, one whose row somebody holds keeps none of
// the others waiting. It is stored once its row is free.
func TestLostBesideLocked(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c := w.consumer(8)
	ctx, stop := context.WithCancel(t.Context())
	wait, err := c.watchLost(ctx)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stop(); wait() })
	if err := c.Stream.Conn().Flush(); err != nil {
		t.Fatal(err)
	}
	lose := func(from, to int) {
		t.Helper()
		for sequence := from; sequence <= to; sequence++ {
			if err := w.conn.Publish("$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.REQUESTS.worker", fmt.Appendf(nil, `{"stream_seq":%d}`, sequence)); err != nil {
				t.Fatal(err)
			}
		}
	}
	w.sendMany("old", 1)
	lose(1, 1)
	w.rows(1)
	release := w.hold(`SELECT FROM outbox WHERE request_id = 'old-0' FOR UPDATE`)
	const more = 60
	w.sendMany("old", 1) // asked again
	w.sendMany("more", more)
	lose(2, more+2)
	w.rows(more + 1)
	release()
	expect.Eventually(t, func() error { return expect.Is("repeats", w.count(`SELECT count(*) FROM outbox_repeats`), 1) })
}

// TestLostLeftBehind: what was given up and cannot be stored before the replica stops is in the log by its sequence, since
// nobody else has heard of it. A try that the stop has cut is no trouble.
func TestLostLeftBehind(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.sendMany("old", 1)
	c := w.impatient(8)
	var log expect.Log
	c.Log = slog.New(slog.NewTextHandler(&log, nil))
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	wait, err := c.watchLost(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Stream.Conn().Flush(); err != nil {
		t.Fatal(err)
	}
	lose := func(sequence int) {
		t.Helper()
		if err := w.conn.Publish("$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.REQUESTS.worker", fmt.Appendf(nil, `{"stream_seq":%d}`, sequence)); err != nil {
			t.Fatal(err)
		}
	}
	lose(1)
	w.rows(1)
	release := w.hold(`SELECT FROM outbox WHERE request_id = 'old-0' FOR UPDATE`)
	w.sendMany("old", 1) // asked again
	lose(2)
	const tried = "could not be stored"
	expect.Eventually(t, func() error { return expect.Is("it was tried", strings.Contains(log.String(), tried), true) })
	stop()
	wait()
	if said := log.String(); !strings.Contains(said, "level=ERROR msg=\"this worker stops before") || !strings.Contains(said, "messages=1 sequences=[2]") {
		t.Errorf("the log is\n%s", said)
	}
	before := log.String()
	if c.lost(ctx, 2) || log.String() != before {
		t.Errorf("of a try that was cut it says %q", strings.TrimPrefix(log.String(), before))
	}
	release()
	if n := w.count(`SELECT count(*) FROM outbox_repeats`); n != 0 {
		t.Errorf("%d repeats", n)
	}
}
