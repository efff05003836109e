package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"flexworker/internal/testing/flextest"
	"flexworker/internal/testing/pgtest"
	"flexworker/migrations"
)

// The names that the worker uses unless told otherwise.
const (
	requestsStream  = "INTERACTION_REQUESTS"
	requestsSubject = "interactions.requests.bench"
	resultsStream   = "INTERACTION_RESULTS"
	consumerName    = "interaction-worker"
)

// progress is for whoever waits; the table goes to standard output.
var progress = os.Stderr

// world is every server that runs, and how to reach them.
type world struct {
	options
	folder   string
	log      *statements
	postgres *pgtest.Server
	nats     *server
	endpoint *server
	flex     flextest.Remote // the endpoint's ledger and settings
	admin    *pgx.Conn
	conn     *nats.Conn
	js       jetstream.JetStream
	charts   []chart
	runs     int // of processes, for names of logs and databases
	fills    int // of requests put into a table, for their ids
}

// start brings everything up; after an error nothing is left running.
func start(ctx context.Context, o options) (_ *world, err error) {
	w := &world{options: o, log: &statements{}}
	defer func() {
		if err != nil {
			w.stop()
		}
	}()
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	if w.program == "" {
		w.program = filepath.Join(filepath.Dir(self), "worker")
	}
	if _, err := os.Stat(w.program); err != nil {
		return nil, fmt.Errorf("%w (make bench builds it)", err)
	}
	if w.folder, err = os.MkdirTemp("", "flexworker-bench-"); err != nil {
		return nil, err
	}
	// A server as somebody would set it up for this machine; everything that
	// concerns safety is as it comes: fsync, full_page_writes, synchronous_commit.
	w.postgres, err = pgtest.Start(ctx, pgtest.Options{Log: w.log, Settings: map[string]string{
		"shared_buffers": "1GB", "max_wal_size": "8GB", "checkpoint_timeout": "15min", "max_connections": "400",
		"log_line_prefix": "%a|",
	}})
	if err != nil {
		return nil, err
	}
	if w.nats, err = startServer(ctx, roleNATS, natsFolder+"="+filepath.Join(w.folder, "nats")); err != nil {
		return nil, err
	}
	if w.endpoint, err = startServer(ctx, roleEndpoint); err != nil {
		return nil, err
	}
	w.flex.URL = "http://" + w.endpoint.address
	if w.admin, err = pgx.Connect(ctx, w.postgres.DSN("postgres")); err != nil {
		return nil, err
	}
	if w.conn, err = nats.Connect(w.natsURL()); err != nil {
		return nil, err
	}
	w.js, err = jetstream.New(w.conn, jetstream.WithPublishAsyncMaxPending(4000))
	return w, err
}

func (w *world) natsURL() string { return "nats://" + w.nats.address }

// stop ends everything and removes what it left.
func (w *world) stop() {
	if w.conn != nil {
		w.conn.Close()
	}
	w.endpoint.stop()
	w.nats.stop() // its folder goes with ours
	if w.admin != nil {
		_ = w.admin.Close(context.Background()) // the server ends anyway
	}
	if w.postgres != nil {
		_ = w.postgres.Stop() // its folder is temporary
	}
	if w.folder != "" {
		_ = os.RemoveAll(w.folder)
	}
}

// database makes a new one with the schema in place.
func (w *world) database(ctx context.Context, name string) (dsn string, err error) {
	if _, err := w.admin.Exec(ctx, "CREATE DATABASE "+name); err != nil {
		return "", err
	}
	dsn = w.postgres.DSN(name)
	_, err = migrations.Up(ctx, dsn)
	return dsn, err
}

// fresh is a new database for one run, and the function that drops it.
func (w *world) fresh(ctx context.Context) (dsn string, drop func(), err error) {
	w.runs++
	name := fmt.Sprintf("run_%d", w.runs)
	dsn, err = w.database(ctx, name)
	return dsn, func() { _, _ = w.admin.Exec(ctx, "DROP DATABASE "+name+" WITH (FORCE)") }, err
}

// streams makes both anew, with n requests waiting and the consumer paused, so
// that what is started next can come to rest before it begins.
func (w *world) streams(ctx context.Context, n int) error {
	for _, name := range []string{requestsStream, resultsStream} {
		if err := w.js.DeleteStream(ctx, name); err != nil && !errors.Is(err, jetstream.ErrStreamNotFound) {
			return err
		}
	}
	// As the worker creates them, but that messages are kept for ever.
	for _, c := range []jetstream.StreamConfig{
		{Name: requestsStream, Subjects: []string{"interactions.requests.>"}, Duplicates: 100 * time.Millisecond},
		{Name: resultsStream, Subjects: []string{"interactions.results.>"}, Duplicates: 30 * time.Minute},
	} {
		if err := w.createStream(ctx, c); err != nil {
			return err
		}
	}
	pause := time.Now().Add(time.Hour)
	if _, err := w.js.CreateConsumer(ctx, requestsStream, jetstream.ConsumerConfig{
		Durable: consumerName, FilterSubject: "interactions.requests.>", AckPolicy: jetstream.AckExplicitPolicy,
		AckWait: time.Minute, MaxDeliver: 20, MaxAckPending: 10000, PauseUntil: &pause,
	}); err != nil {
		return err
	}
	for i := range n {
		if _, err := w.js.PublishAsync(requestsSubject, request(i), jetstream.WithStallWait(10*time.Second)); err != nil {
			return err
		}
	}
	select {
	case <-w.js.PublishAsyncComplete():
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// createStream tries for a moment: the server answers the deletion of a stream
// before its directory is gone, and a new one fails meanwhile.
func (w *world) createStream(ctx context.Context, c jetstream.StreamConfig) error {
	var err error
	for range 50 {
		if _, err = w.js.CreateStream(ctx, c); err == nil {
			return nil
		}
		if !pause(ctx, 20*time.Millisecond) {
			break
		}
	}
	return err
}

// resume lets the consumer deliver.
func (w *world) resume(ctx context.Context) error {
	_, err := w.js.ResumeConsumer(ctx, requestsStream, consumerName)
	return err
}

// delivering returns when the first message has been handed out: a pull that
// waits at a paused consumer may be served only when it is made again.
func (w *world) delivering(ctx context.Context) error {
	for {
		c, err := w.js.Consumer(ctx, requestsStream, consumerName)
		if err != nil || c.CachedInfo().Delivered.Consumer > 0 {
			return err
		}
		if !pause(ctx, 5*time.Millisecond) {
			return context.Cause(ctx)
		}
	}
}

// results is how many requests have a result created on the result stream. A word of CONFIRM is none.
func (w *world) results(ctx context.Context) (n int, err error) {
	s, err := w.js.Stream(ctx, resultsStream)
	if err != nil {
		return 0, err
	}
	info, err := s.Info(ctx, jetstream.WithSubjectFilter("interactions.results.created.>"))
	if err != nil {
		return 0, err
	}
	for _, of := range info.State.Subjects {
		n += int(of)
	}
	return n, nil
}

// waitResults returns when so many requests are created and told so.
func (w *world) waitResults(ctx context.Context, n int, limit time.Duration) error {
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("not %d results after %v", n, limit))
	defer cancel()
	for {
		got, err := w.results(ctx)
		switch {
		case err != nil && ctx.Err() == nil:
			return err
		case got >= n:
			return nil
		case !pause(ctx, 10*time.Millisecond):
			return fmt.Errorf("%w, but %d", context.Cause(ctx), got)
		}
	}
}

// request is the i-th: an SMS that our side starts, as the README's.
func request(i int) []byte {
	return fmt.Appendf(nil, `{"request_id":"bench-%07d","channel":{"type":"sms","initiated_by":"api",`+
		`"participants":[{"address":"+1555%07d","proxy_address":"+15550199"}]},`+
		`"routing":{"properties":{"workspace_sid":"WS00000000000000000000000000000002","workflow_sid":"WW00000000000000000000000000000003",`+
		`"task_channel_unique_name":"sms","attributes":{"customerName":"Ada","order":%d,"note":"call about the delivery"}}},`+
		`"metadata":{"n":%d}}`, i, i, i, i)
}

// pause waits; false when ctx ended first.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
