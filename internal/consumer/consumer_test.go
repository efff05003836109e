package consumer

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"flexworker/internal/outbox"
	"flexworker/internal/testing/expect"
	"flexworker/internal/testing/pgtest"
	"flexworker/migrations"
)

// TestRunLeavesNothing is not parallel: it counts goroutines.
func TestRunLeavesNothing(t *testing.T) {
	w := newWorld(t)
	c := w.consumer(16)
	w.sendMany("warm", 1)
	stop := w.run(c)
	w.acked()
	stop()
	present := goleak.IgnoreCurrent()
	before := w.conn.NumSubscriptions()
	w.sendMany("a", 100)
	stop = w.run(c)
	w.acked()
	stop()
	w.rows(101)
	// The pool's health check and its growth outlive a Run; they are the pool's.
	if err := goleak.Find(present, goleak.IgnoreAnyFunction("github.com/jackc/pgx/v5/pgxpool.(*Pool).backgroundHealthCheck")); err != nil {
		t.Error(err)
	}
	if n := c.Stream.Conn().NumSubscriptions(); n > before+1 {
		t.Errorf("%d subscriptions are left", n)
	}
}

// TestAckAfterCommit: while the insert has not committed, nothing is acked.
func TestAckAfterCommit(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.run(w.consumer(16))
	release := w.block()
	w.sendMany("a", 3)
	expect.Eventually(t, func() error { return expect.Is("in hand", w.info().NumAckPending, 3) })
	if n := w.count(`SELECT count(*) FROM outbox`); n != 0 {
		t.Fatalf("%d rows are there while the table is locked", n)
	}
	if floor := w.info().AckFloor.Stream; floor != 0 {
		t.Fatalf("acked up to %d before the commit", floor)
	}
	release()
	w.rows(3)
	w.acked()
	if i := w.info(); i.NumRedelivered != 0 {
		t.Errorf("%d were delivered again", i.NumRedelivered)
	}
}

// TestPostgresAway: paused and killed; what was in hand is unacked meanwhile,
// is given back, and stands there once in the end.
func TestPostgresAway(t *testing.T) {
	t.Parallel()
	server := pgtest.NewServer(t)
	if _, err := migrations.Up(t.Context(), server.DSN("postgres")); err != nil {
		t.Fatal(err)
	}
	pool, err := pgxpool.New(t.Context(), server.DSN("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	w := worldOn(t, pool)
	c := w.consumer(16)
	w.run(c)
	w.sendMany("before", 5)
	w.rows(5)
	w.acked()

	if err := server.Pause(); err != nil {
		t.Fatal(err)
	}
	w.sendMany("paused", 5)
	expect.Eventually(t, func() error { return expect.Is("in hand", w.info().NumAckPending, 5) })
	if floor := w.info().AckFloor.Stream; floor != 5 {
		t.Errorf("acked up to %d while Postgres stood still", floor)
	}
	if err := server.Resume(); err != nil {
		t.Fatal(err)
	}
	w.rows(10)
	w.acked()

	if err := server.Kill(); err != nil {
		t.Fatal(err)
	}
	w.sendMany("killed", 5)
	// The first that cannot be stored ends the pulling: the others may still wait in the stream.
	expect.Eventually(t, func() error { return expect.Is("some are in hand", w.info().NumAckPending > 0, true) })
	if floor := w.info().AckFloor.Stream; floor != 10 {
		t.Errorf("acked up to %d without Postgres", floor)
	}
	if err := server.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.rows(15)
	w.acked()
	if n := w.malformed(); n != 0 {
		t.Errorf("%d good messages are kept as malformed", n)
	}
}

// TestRedelivered: a crash between commit and ack; the message comes again, is
// recognised and acked.
func TestRedelivered(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.sendMany("a", 10)
	w.send("poison", nil)
	c := w.consumer(16)
	inHand, err := c.Names.Open(t.Context(), w.js)
	if err != nil {
		t.Fatal(err)
	}
	batch, err := inHand.Fetch(11)
	if err != nil {
		t.Fatal(err)
	}
	in := c.newIntake(t.Context())
	for m := range batch.Messages() {
		stored, err := w.names.message(m)
		if err == nil {
			err = in.store(t.Context(), stored)
		}
		if err = errors.Join(err, m.Nak()); err != nil {
			t.Fatal(err)
		}
	}
	w.run(c)
	w.acked()
	w.rows(10)
	if n := c.Counters.Added[outbox.Redelivered].Load(); n != 10 {
		t.Errorf("%d were recognised, want 10", n)
	}
	if n := w.count(`SELECT count(*) FROM outbox_repeats`); n != 0 {
		t.Errorf("%d redeliveries are taken for a new question", n)
	}
	if n := w.malformed(); n != 1 {
		t.Errorf("%d malformed, want 1", n)
	}
}

// TestPoison: bad messages before and among good ones cost these nothing.
func TestPoison(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	poison := []string{"", "poison", "{}", "\xff\x00", strings.Repeat("[", 10_000), `{"request_id":7}`, `{"request_id":"a\u0000"}`, `"\ud800"`}
	for n := range 2000 {
		if _, err := w.js.PublishAsync("requests.bad", []byte(poison[n%len(poison)])); err != nil {
			t.Fatal(err)
		}
	}
	w.sendMany("good", 2000)
	c := w.consumer(128)
	w.run(c)
	w.acked()
	w.rows(2000)
	if n := w.malformed(); n != 2000 {
		t.Errorf("%d malformed, want 2000", n)
	}
	if n := w.count(`SELECT count(*) FROM outbox WHERE state = 'pending'`); n != 2000 {
		t.Errorf("%d are pending, want 2000", n)
	}
	if i := w.info(); i.NumRedelivered != 0 || c.Counters.Attached.Load() != 1 {
		t.Errorf("%d delivered again, attached %d times", i.NumRedelivered, c.Counters.Attached.Load())
	}
}

// TestEmptyBody: an empty message is kept with its headers, also one whose
// Status header makes the client take it for a word of the server.
func TestEmptyBody(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.send("", msgID("a"))
	var lost []uint64
	for i, status := range []headers{{"Status": {"409"}, "Description": {"Consumer Deleted"}}, {"Status": {"400"}},
		{"Status": {"100"}}, {"Status": {"409"}, "Nats-Pending-Messages": {"x"}}, {"Status": {"nonsense"}}} {
		w.sendMany(fmt.Sprintf("innocent-%d", i), 20)
		lost = append(lost, w.send("", status))
	}
	w.sendMany("last", 20)
	w.shortestAckWait() // for what the client has in hand when it is misled
	w.run(w.consumer(16))
	w.rows(120)
	if n := w.malformed(); n != 1 {
		t.Errorf("%d malformed, want 1 until the server gives up on the others", n)
	}
	for _, sequence := range lost {
		advisory := fmt.Sprintf(`{"type":"io.nats.jetstream.advisory.v1.max_deliver","stream":"REQUESTS","consumer":"worker","stream_seq":%d,"deliveries":20}`, sequence)
		for range 2 { // said twice it is stored once
			if err := w.conn.Publish("$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.REQUESTS.worker", []byte(advisory)); err != nil {
				t.Fatal(err)
			}
		}
	}
	expect.Eventually(t, func() error { return expect.Is("malformed", w.malformed(), 6) })
	if n := w.count(`SELECT count(*) FROM outbox_malformed WHERE raw = '' AND error = 'the message is empty; a request is a JSON object; no request_id was used up: correct it and send it again'`); n != 6 {
		t.Errorf("%d have their reason, want 6", n)
	}
	if n := w.count(`SELECT count(*) FROM outbox_malformed WHERE headers #>> '{Status,0}' IN ('409', '400', '100', 'nonsense')`); n != 5 {
		t.Errorf("%d have their headers, want 5", n)
	}
}

// TestWordOfASender: a message that the client takes for the server's word ends the
// consuming, and is no trouble of NATS while the consumer is there.
func TestWordOfASender(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c := w.consumer(16)
	w.run(c)
	w.send("", headers{"Status": {"409"}, "Description": {"Consumer Deleted"}})
	w.sendMany("innocent", 5)
	expect.Eventually(t, func() error { return expect.Is("attached again", c.Counters.Attached.Load() > 1, true) })
	c.unopened.mu.Lock()
	defer c.unopened.mu.Unlock()
	if c.unopened.told != "" && !strings.Contains(c.unopened.told, "the server does not answer when it is asked") { // this machine is slow
		t.Errorf("not ready: %s", c.unopened.told)
	}
}

// TestGivenUp: what the server has really given up delivering is stored.
func TestGivenUp(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c := w.consumer(16)
	w.run(c)
	w.sendMany("before", 1)
	w.rows(1)
	// Deliveries that are used up at once, behind the worker's back: it would not
	// start with these settings.
	config := w.info().Config
	config.AckWait, config.MaxDeliver = 100e6, 2
	if _, err := w.js.UpdateConsumer(t.Context(), w.names.Stream, config); err != nil {
		t.Fatal(err)
	}
	w.send("", headers{"Status": {"100"}})
	expect.Eventually(t, func() error { return expect.Is("malformed", w.malformed(), 1) })
	w.sendMany("after", 1)
	w.rows(2)
}

// TestTwoReplicas take from one consumer; the same event on both at once makes
// one row, another request under its id makes none.
func TestTwoReplicas(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	one, two := w.consumer(64), w.consumer(64)
	w.run(one)
	w.run(two)
	for i := range 300 {
		same := []byte(withID(fmt.Sprintf(`"a-%d"`, i)))
		other := []byte(strings.Replace(string(same), `"sms"`, `"whatsapp"`, 1))
		for _, body := range [][]byte{same, same, other} {
			if _, err := w.js.PublishAsync("requests.crm", body); err != nil {
				t.Fatal(err)
			}
		}
	}
	w.published()
	w.acked()
	w.rows(300)
	// Which of the three comes first is chance; each of them has an answer.
	answers := w.count(`SELECT count(*) FROM outbox_repeats`) + w.count(`SELECT count(*) FROM outbox_malformed WHERE kind = 'conflict'`)
	if answers != 600 {
		t.Errorf("%d answers are owed beside the 300 requests, want 600", answers)
	}
	if one.Counters.Added[outbox.Accepted].Load()+two.Counters.Added[outbox.Accepted].Load() != 300 {
		t.Error("not 300 accepted")
	}
}

// TestStop: what is in hand when ctx ends is stored and acked, what is only
// prefetched goes to another replica at once.
func TestStop(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	release := w.block()
	w.sendMany("a", 1500)
	c := w.consumer(500)
	if _, err := c.Names.Open(t.Context(), w.js); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { c.Run(ctx); close(done) }()
	expect.Eventually(t, func() error { return expect.Is("500 in hand", w.info().NumAckPending >= 500, true) })
	expect.Eventually(t, func() error {
		return expect.Is("an insert waits", w.count(`SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'outbox'::regclass`) > 0, true)
	})
	stop()
	release()
	<-done
	stored := w.count(`SELECT count(*) FROM outbox`)
	if stored < 1 || stored > 1499 {
		t.Errorf("%d stored when it stopped", stored)
	}
	// Sooner than AckWait: it was given back.
	other := w.consumer(500)
	w.run(other)
	w.rows(1500)
	w.acked()
}

// TestDeleteMarkers: what the server itself puts on a stream when it deletes messages
// (subject_delete_marker_ttl) is acked and counted, and nobody is answered. With one
// message a subject the server lets a message live for less long than its marker.
func TestDeleteMarkers(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	if err := w.js.DeleteStream(t.Context(), w.names.Stream); err != nil {
		t.Fatal(err)
	}
	if _, err := w.js.CreateStream(t.Context(), jetstream.StreamConfig{Name: w.names.Stream, Subjects: []string{w.names.filter()},
		AllowMsgTTL: true, SubjectDeleteMarkerTTL: time.Hour, MaxMsgsPerSubject: 1}); err != nil {
		t.Fatal(err)
	}
	c := w.consumer(8)
	w.run(c)
	m := nats.NewMsg("requests.shop")
	m.Data = []byte(withID(`"a"`))
	// On a busy machine it is deleted before it is delivered: its marker comes all the same.
	if _, err := w.js.PublishMsg(t.Context(), m, jetstream.WithMsgTTL(time.Second)); err != nil {
		t.Fatal(err)
	}
	w.sendMany("b", 1)
	expect.Eventually(t, func() error {
		return expect.Is("requests that stay", w.count(`SELECT count(*) FROM outbox WHERE request_id = 'b-0'`), 1)
	})
	expect.Eventually(t, func() error { return expect.Is("markers", c.Counters.Markers.Load(), 1) })
	// A sender's own empty message is none, and one with data neither.
	for n, data := range []string{"", `{}`} {
		w.send(data, []headers{nil, {"Nats-Marker-Reason": {"MaxAge"}}}[n])
		expect.Eventually(t, func() error { return expect.Is("malformed", c.Counters.Malformed.Load(), int64(n+1)) })
	}
	w.acked()
	if n := c.Counters.Markers.Load(); n != 1 || w.malformed() != 2 {
		t.Errorf("%d markers, %d malformed", n, w.malformed())
	}
}
