package outbox

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"flexworker/internal/flex"
	"flexworker/internal/outbox/gate"
	"flexworker/internal/outbox/limiter"
	"flexworker/internal/outbox/request"
	"flexworker/internal/testing/expect"
	"flexworker/internal/testing/flextest"
	"flexworker/internal/testing/pgtest"
	"flexworker/migrations"
)

const testSlots = 8

// newDeliverer gives one that repeats nothing within a test's time. Its calls are not cut, and its leases last, for a machine that stands
// still for some seconds would make a good call uncertain, or never begin it: hasty is for tests of that.
func newDeliverer(t *testing.T, s *Store, srv *flextest.Server) *Dispatcher {
	t.Helper()
	s.leaseFor = patience + request.LeaseMargin
	return &Dispatcher{Store: s, Flex: patient(t, srv), Policy: request.Policy{MinDelay: time.Hour, MaxDelay: time.Hour, MaxAttempts: 10, Settle: time.Minute},
		Concurrency: testSlots, Limit: testLimit, Log: logger(t), Counters: &Counters{}}
}

// hasty cuts d's calls after testLimit.
func hasty(t *testing.T, d *Dispatcher, srv *flextest.Server) {
	t.Helper()
	d.Flex = newClient(t, srv, testLimit)
}

// newClient is a client of srv whose calls are cut after limit.
func newClient(t *testing.T, srv *flextest.Server, limit time.Duration) *flex.Client {
	t.Helper()
	client, err := flex.New(flex.Config{URL: srv.URL(), TaskRouterURL: srv.URL(), Timeout: limit, Concurrency: testSlots, LookupAttribute: "interaction_request",
		Credentials: func() (string, string) { return flextest.APIKey, flextest.APISecret }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.CloseIdle)
	return client
}

// start runs d until stop is called, which returns when Run has, or the test ends.
func start(t *testing.T, d *Dispatcher) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	running(t, d.Store.upkeep().Poll)
	go func() { defer close(ended); d.Run(ctx) }()
	stop = func() { cancel(); <-ended }
	t.Cleanup(stop)
	return stop
}

// release lets calls that hang go on until done: a call that has arrived may not
// hang yet.
func release(t *testing.T, srv *flextest.Server, done <-chan struct{}) {
	t.Helper()
	expect.Eventually(t, func() error {
		srv.Release()
		select {
		case <-done:
			return nil
		default:
			return errors.New("the call has not come to its end")
		}
	})
}

// inState waits until n requests are in this state.
func inState(t *testing.T, s *Store, state request.State, n int) {
	t.Helper()
	expect.Eventually(t, func() error {
		var got int
		if err := s.pool.QueryRow(t.Context(), `SELECT count(*) FROM outbox WHERE state = $1`, state).Scan(&got); err != nil {
			return err
		}
		if got != n {
			return fmt.Errorf("%d are %s, want %d", got, state, n)
		}
		return nil
	})
}

// TestDeliver: each fault in both forms, it failed and it failed although it
// happened; what the endpoint created is the truth.
func TestDeliver(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		fault     flextest.Fault
		state     request.State
		uncounted int
		word      gate.Word // of the replica; paused: of the gate
		created   int
	}{
		{flextest.None, request.Created, 0, gate.WordOK, 1},
		{flextest.CreateThenClose, request.Created, 0, gate.WordOK, 1},
		{flextest.Status(400), request.Rejected, 0, gate.WordOK, 0},
		{flextest.Status(429), request.Pending, 1, gate.WordOK, 0},
		{flextest.Status(429).RetryAfter("3600"), request.Pending, 1, gate.WordPaused, 0},
		{flextest.Status(429).RetryAfter("soon"), request.Pending, 1, gate.WordOK, 0},
		{flextest.Reset, request.Uncertain, 0, gate.WordOK, 0},
		{flextest.CreateThenReset, request.Uncertain, 0, gate.WordOK, 1},
		{flextest.EOF, request.Uncertain, 0, gate.WordOK, 0},
		{flextest.CreateThenEOF, request.Uncertain, 0, gate.WordOK, 1},
		{flextest.Status(500), request.Uncertain, 0, gate.WordOK, 0},
		{flextest.CreateThen(flextest.Status(500)), request.Uncertain, 0, gate.WordOK, 1},
		{flextest.Status(503).RetryAfter("3600"), request.Uncertain, 0, gate.WordOK, 0},
		{flextest.Hang, request.Uncertain, 0, gate.WordOK, 0},
		{flextest.CreateThenHang, request.Uncertain, 0, gate.WordOK, 1},
		{flextest.NoSID, request.Uncertain, 0, gate.WordOK, 0},
		{flextest.CreateThenNoSID, request.Uncertain, 0, gate.WordOK, 1},
		{flextest.Cut, request.Uncertain, 0, gate.WordOK, 0},
		{flextest.CreateThenCut, request.Created, 0, gate.WordOK, 1}, // the sid is in the half that came
		{flextest.Status(401), request.Pending, 1, gate.WordUnauthorized, 0},
		{flextest.Status(403), request.Pending, 1, gate.WordOK, 0}, // may be this request's alone
		{flextest.Status(403).Code(20005), request.Pending, 1, gate.WordUnauthorized, 0},
		{flextest.Status(302), request.Uncertain, 0, gate.WordUnreachable, 0},
		{flextest.CreateThen(flextest.Status(302)), request.Uncertain, 0, gate.WordUnreachable, 1},
		{flextest.Status(307), request.Uncertain, 0, gate.WordUnreachable, 0},
		{flextest.CreateThen(flextest.Status(307)), request.Uncertain, 0, gate.WordUnreachable, 1},
	} {
		t.Run(string(tt.fault), func(t *testing.T) {
			t.Parallel()
			srv := flextest.New(t, tt.fault)
			srv.Set(flextest.Settings{FetchTrouble: tt.fault}) // no read lets it go on meanwhile
			s := newStore(t)
			mustAdd(t, s, "d", 1)
			d := newDeliverer(t, s, srv)
			if tt.fault == flextest.Hang || tt.fault == flextest.CreateThenHang {
				hasty(t, d, srv)
			}
			stop := start(t, d)
			expect.Eventually(t, func() error {
				if s.histories(t, "d-1") == "" {
					return errors.New("no attempt is recorded")
				}
				return nil
			})
			stop()
			r := s.row(t, "d-1")
			if r.State != tt.state || r.Uncounted != tt.uncounted || r.Attempt != 1 {
				t.Errorf("%s, %d attempts, %d uncounted, want %s, %d uncounted: %s", r.State, r.Attempt, r.Uncounted, tt.state, tt.uncounted, pgtest.Deref(r.ErrorMessage))
			}
			word, reason, _ := d.Stopped()
			if g := readGate(t, s); g.State == gate.Paused {
				word, reason = gate.WordPaused, g.Reason
			} else if g.State != gate.Open {
				t.Errorf("the gate is %s: %s", g.State, g.Reason)
			}
			if word != tt.word {
				t.Errorf("%s, want %s: %s", word, tt.word, reason)
			}
			ledger := srv.Ledger()
			if len(ledger) != tt.created || srv.Calls().Received != 1 {
				t.Errorf("%d created by %d calls, want %d by 1", len(ledger), srv.Calls().Received, tt.created)
			}
			if r.State == request.Created && pgtest.Deref(r.InteractionSID) != ledger[0].InteractionSID {
				t.Errorf("sid %s, created was %s", pgtest.Deref(r.InteractionSID), ledger[0].InteractionSID)
			}
			pgtest.CheckOutbox(t, s.pool)
		})
	}
}

// TestDeliverUnreached: nothing was written, so the attempt costs nothing.
func TestDeliverUnreached(t *testing.T) {
	t.Parallel()
	srv := flextest.New(t)
	srv.Down()
	s := newStore(t)
	mustAdd(t, s, "u", gate.FailuresMost-1)
	start(t, newDeliverer(t, s, srv))
	expect.Eventually(t, func() error {
		if n := pgtest.One[int](t, s.pool, `SELECT count(*) FROM outbox WHERE state = 'pending' AND attempt = 1 AND uncounted = 1`); n != gate.FailuresMost-1 {
			return fmt.Errorf("%d were refused", n)
		}
		return nil
	})
	if g := readGate(t, s); g.State != gate.Open {
		t.Errorf("%+v", g)
	}
}

// TestDeliverVerbatim: channel and routing reach Flex as they came.
func TestDeliverVerbatim(t *testing.T) {
	t.Parallel()
	srv := flextest.New(t)
	s := newStore(t)
	const channel = `{"type":"sms",  "initiated_by":"api","participants":[{"address":"+15550100001","proxy_address":"+15550100002"}],"n":1.0}`
	const routing = `{"properties":{"workspace_sid":"WS00000000000000000000000000000002","attributes":{"z":12345678901234567890,"a":"\u00e9"}}}`
	settled := event("v", 1, func(e *request.Event) {
		e.Request = []byte(`{"channel": ` + channel + ` ,"routing":` + routing + `,"webhook_ttid":"flex_interactionwebhook_1"}`)
	})
	if _, err := s.Add(t.Context(), settled); err != nil {
		t.Fatal(err)
	}
	start(t, newDeliverer(t, s, srv))
	inState(t, s, request.Created, 1)
	if c := srv.Ledger()[0].Call; c.Channel != channel || c.Routing != routing || c.WebhookID != "flex_interactionwebhook_1" || c.ContextSID != "" {
		t.Errorf("%+v", c)
	}
}

// TestDeliverTwoReplicas: 300 requests, two workers, 300 interactions, and no
// more calls at a time than there are permits.
func TestDeliverTwoReplicas(t *testing.T) {
	t.Parallel()
	srv := flextest.New(t)
	srv.Set(flextest.Settings{Latency: 2 * time.Millisecond})
	s := newStore(t)
	ids := mustAdd(t, s, "two", 300)
	a, b := newDeliverer(t, s, srv), newDeliverer(t, s.another("w2"), srv)
	stopA, stopB := start(t, a), start(t, b)
	inState(t, s, request.Created, len(ids))
	stopA()
	stopB()
	seen := map[string]int{}
	for _, e := range srv.Ledger() {
		seen[e.TestID]++
	}
	for _, id := range ids {
		if seen[id] != 1 {
			t.Errorf("%s was created %d times", id, seen[id])
		}
	}
	if c := srv.Calls(); c.Received != len(ids) || c.MaxInFlight > 2*testSlots {
		t.Errorf("%+v", c)
	}
	if n := a.Counters.Attempts[flex.Created].Load() + b.Counters.Attempts[flex.Created].Load(); n != int64(len(ids)) {
		t.Errorf("%d counted", n)
	}
	pgtest.CheckOutbox(t, s.pool)
}

// TestDeliverPutsBack: with too little left of its lease, or in a worker that
// stops, nothing is sent, and the attempt is uncounted.
func TestDeliverPutsBack(t *testing.T) {
	t.Parallel()
	srv := flextest.New(t)
	s := newStore(t)
	mustAdd(t, s, "p", 2)
	leases := mustClaim(t, s, 2)
	d := newDeliverer(t, s, srv)
	d.prepare(t.Context())
	d.permits.Take(2)
	leases[0].Until = time.Now().Add(d.Limit + sendMargin - time.Millisecond) // as after a stop of the process
	d.deliver(t.Context(), leases[0])
	stopped, cancel := context.WithCancel(t.Context())
	cancel()
	d.deliver(stopped, leases[1])
	for _, l := range leases {
		if r := s.row(t, l.RequestID); r.State != request.Pending || r.Uncounted != 1 {
			t.Errorf("%s: %+v", l.RequestID, r)
		}
	}
	if n := srv.Calls().Received; n != 0 || d.free() != testSlots || d.Counters.Released.Load() != 2 {
		t.Errorf("%d calls, %d permits free, %d released", n, d.free(), d.Counters.Released.Load())
	}
	pgtest.CheckOutbox(t, s.pool)
}

// TestDeliverStops: a call in flight is not cut; Run returns when its outcome is
// recorded, and not before. TestMain sees to it that no goroutine is left.
func TestDeliverStops(t *testing.T) {
	t.Parallel()
	srv := flextest.New(t, flextest.Hang)
	s := newStore(t)
	mustAdd(t, s, "s", 1)
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan struct{})
	d := newDeliverer(t, s, srv)
	known := make(chan flex.Kind, 1)
	d.Attempted = func(a Attempt) {
		select {
		case <-ended:
			t.Error("Run returned while a call was in flight")
		default:
		}
		known <- a.Outcome.Kind
	}
	running(t, d.Store.upkeep().Poll)
	go func() { defer close(ended); d.Run(ctx) }()
	if err := srv.Wait(t.Context(), func(c flextest.Calls) bool { return c.InFlight == 1 }); err != nil {
		t.Fatal(err)
	}
	stop()
	release(t, srv, ended)
	if kind, r := <-known, s.row(t, "s-1"); kind != flex.Created || r.State != request.Created {
		t.Errorf("%s, is %s", kind, r.State)
	}
	if len(s.Results.Queue.Queue) != 1 {
		t.Errorf("%d hints, want 1", len(s.Results.Queue.Queue))
	}
}

// telling tells what each call came to, before that is recorded.
type telling struct {
	creator
	known chan<- flex.Kind
}

func (c telling) Create(ctx context.Context, in flex.Interaction) flex.Outcome {
	o := c.creator.Create(ctx, in)
	c.known <- o.Kind
	return o
}

// TestDeliverPostgresAway: Postgres goes while a call is in flight and comes back
// after its outcome is known: that is recorded, and nothing is sent twice.
func TestDeliverPostgresAway(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name       string
		away, back func(*pgtest.Server, context.Context) error
	}{
		{"killed",
			func(p *pgtest.Server, _ context.Context) error { return p.Kill() },
			func(p *pgtest.Server, ctx context.Context) error { return p.Restart(ctx) }},
		{"paused",
			func(p *pgtest.Server, _ context.Context) error { return p.Pause() },
			func(p *pgtest.Server, _ context.Context) error { return p.Resume() }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			postgres := pgtest.NewServer(t)
			dsn := postgres.DSN("postgres")
			if _, err := migrations.Up(t.Context(), dsn); err != nil {
				t.Fatal(err)
			}
			pool, err := pgxpool.New(t.Context(), dsn)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(pool.Close)
			s := NewStore(pool, "w1", testLimit, "interaction_request")
			srv := flextest.New(t, flextest.Hang)
			mustAdd(t, s, "a", 1)
			d := newDeliverer(t, s, srv)
			known := make(chan flex.Kind, 1)
			d.Flex = telling{d.Flex, known}
			stop := start(t, d)
			if err := srv.Wait(t.Context(), func(c flextest.Calls) bool { return c.InFlight == 1 }); err != nil {
				t.Fatal(err)
			}
			if err := tt.away(postgres, t.Context()); err != nil {
				t.Fatal(err)
			}
			answered := make(chan struct{})
			var kind flex.Kind
			go func() { defer close(answered); kind = <-known }()
			release(t, srv, answered)
			if err := tt.back(postgres, t.Context()); err != nil {
				t.Fatal(err)
			}
			if kind != flex.Created {
				t.Errorf("the call was %s", kind)
			}
			inState(t, s, request.Created, 1)
			stop()
			if n := srv.Calls().Received; n != 1 {
				t.Errorf("%d calls, want 1", n)
			}
		})
	}
}

// TestBreaker: a replica that cannot reach Flex stops after a few calls, by itself,
// and goes on by itself once a read succeeds. The gate is not concerned.
func TestBreaker(t *testing.T) {
	t.Parallel()
	const requests = 100
	srv := flextest.New(t)
	srv.Down()
	s := newStore(t)
	mustAdd(t, s, "b", requests)
	d := newDeliverer(t, s, srv)
	d.Concurrency, d.Policy.MinDelay, d.Policy.MaxDelay = 1, time.Millisecond, time.Millisecond
	start(t, d)
	expect.Eventually(t, func() error {
		if word, reason, _ := d.Stopped(); word != gate.WordUnreachable || !strings.Contains(reason, "refused") {
			return fmt.Errorf("it is %s: %s", word, reason)
		}
		return nil
	})
	expect.Eventually(t, func() error { // the last is recorded
		if n := pgtest.One[int](t, s.pool, `SELECT count(*) FROM outbox WHERE state = 'sending'`); n != 0 {
			return fmt.Errorf("%d are sending", n)
		}
		return nil
	})
	if n := pgtest.One[int](t, s.pool, `SELECT sum(attempt)::int FROM outbox`); n < gate.FailuresMost || n > gate.FailuresMost+1 { // one may have been leased meanwhile, and is released
		t.Errorf("%d attempts until it stopped, want %d", n, gate.FailuresMost)
	}
	// What is added meanwhile is stored, and not leased.
	mustAdd(t, s, "meanwhile", 10, func(e *request.Event) { e.Sequence += 1000 })
	if n := pgtest.One[int](t, s.pool, `SELECT count(*) FROM outbox WHERE request_id LIKE 'mean%' AND state = 'pending' AND attempt = 0`); n != 10 || readGate(t, s).State != gate.Open {
		t.Errorf("%d of 10 wait, the gate is %s", n, readGate(t, s).State)
	}
	if err := srv.Up(); err != nil {
		t.Fatal(err)
	}
	inState(t, s, request.Created, requests+10)
	if word, reason, stopped := d.Stopped(); stopped {
		t.Errorf("it is %s: %s", word, reason)
	}
	if n := pgtest.One[int](t, s.pool, `SELECT count(*) FROM outbox WHERE attempt - uncounted <> 1`); n != 0 {
		t.Errorf("%d requests paid for the outage", n)
	}
	pgtest.CheckOutbox(t, s.pool)
}

// TestBlocked: wrong credentials stop each replica that has them and cost nobody an
// attempt; once they are right a read notices, and all goes on.
func TestBlocked(t *testing.T) {
	t.Parallel()
	const requests = 40
	srv := flextest.New(t)
	srv.SetCredentials()
	s := newStore(t)
	mustAdd(t, s, "k", requests)
	var both []*Dispatcher
	for _, store := range []*Store{s, s.another("w2")} {
		d := newDeliverer(t, store, srv)
		d.Policy.MinDelay, d.Policy.MaxDelay = time.Millisecond, time.Millisecond
		start(t, d)
		both = append(both, d)
	}
	stops(t, gate.WordUnauthorized, both...)
	asked := srv.Calls().Fetched
	if err := srv.Wait(t.Context(), func(c flextest.Calls) bool { return c.Fetched >= asked+4 }); err != nil { // in vain
		t.Fatal(err)
	}
	for i, d := range both {
		if word, reason, _ := d.Stopped(); word != gate.WordUnauthorized || !strings.Contains(reason, "HTTP 401") {
			t.Errorf("replica %d is %s: %s", i+1, word, reason)
		}
		if d.MayLookUp() {
			t.Errorf("replica %d looks up without credentials", i+1)
		}
	}
	if n := srv.Calls().Received; n == 0 || n > 2*testSlots {
		t.Errorf("%d calls until both stopped", n)
	}
	srv.SetCredentials(flextest.Credential{User: flextest.APIKey, Secret: flextest.APISecret})
	inState(t, s, request.Created, requests)
	if n := pgtest.One[int](t, s.pool, `SELECT count(*) FROM outbox WHERE attempt - uncounted <> 1`); n != 0 {
		t.Errorf("%d requests paid for the credentials", n)
	}
	if len(srv.Ledger()) != requests || readGate(t, s).State != gate.Open {
		t.Errorf("%d created, gate %s", len(srv.Ledger()), readGate(t, s).State)
	}
	pgtest.CheckOutbox(t, s.pool)
}

// TestStartDuringRateLimit: a replica that starts while Flex answers 429 is ready.
func TestStartDuringRateLimit(t *testing.T) {
	t.Parallel()
	srv := flextest.New(t)
	srv.Set(flextest.Settings{FetchTrouble: flextest.Status(429)})
	d := newDeliverer(t, newStore(t), srv)
	d.AskFirst()
	start(t, d)
	expect.Eventually(t, func() error {
		if word, reason, stopped := d.Stopped(); stopped {
			return fmt.Errorf("it is %s: %s", word, reason)
		}
		return nil
	})
}

// TestChoosingKeepsTheLimit: what one tenant's failures cost, or one timeout while a peer
// is stopped, is one call at a time until another's is answered; being stopped costs the limit.
func TestChoosingKeepsTheLimit(t *testing.T) {
	t.Parallel()
	d := newDeliverer(t, newStore(t), flextest.New(t))
	d.permits = limiter.New(16)
	check := func(when string, want int) {
		t.Helper()
		if got := d.free(); got != want {
			t.Errorf("%s: %d calls may be in flight, want %d", when, got, want)
		}
	}
	observe := func(call gate.Call, o flex.Outcome) { d.changed(d.breaker.Observe(call, o, time.Now())) }
	choose := func(tenant string) {
		for i := range gate.FailuresMost {
			observe(of(tenant, i), isFailing)
		}
	}
	choose("a")
	check("choosing", 1)
	observe(of("good", 1), isCreated)
	check("chosen", 16)
	choose("b") // a's failures are known to be its own
	d.permits.Observe(isLimited, time.Now())
	observe(of("good", 2), isCreated)
	check("a 429 while it chose", 9)
	choose("c")
	observe(of("good", 3), isFailing)
	check("stopped", 1)
	d.Flex = answering{isCreated, isCreated}
	d.ask(t.Context())
	observe(of("good", 4), isCreated)
	if !d.breaker.IsClosed() {
		t.Error("it does not go on")
	}
	check("it goes on", 1)
}

// hanging is Flex where the calls of one sender hang until each gets its end; others are answered.
type hanging struct {
	sender        string        // a part of its requests
	begun, served chan struct{} // calls of the sender that hang, calls of others
	end           chan struct{}
}

func (h *hanging) Create(_ context.Context, i flex.Interaction) flex.Outcome {
	if !bytes.Contains(i.Routing, []byte(h.sender)) {
		h.served <- struct{}{}
		return good
	}
	h.begun <- struct{}{}
	<-h.end
	return isTimeout
}

func (h *hanging) Check(context.Context) flex.Outcome { return good }

// TestChoosingWaitsForNoCallThatHangs: one sender's calls hang with all permits. When five have brought no answer
// another's is tried at once, beside those that still hang.
func TestChoosingWaitsForNoCallThatHangs(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	mustAdd(t, s, "hung", 20, from("slow"))
	mustAdd(t, s, "other", 1, from("other"))
	d := newDeliverer(t, s, flextest.New(t))
	h := &hanging{sender: `"hung-`, begun: make(chan struct{}, 20), served: make(chan struct{}, 1), end: make(chan struct{})}
	d.Flex = h
	start(t, d)
	t.Cleanup(func() { close(h.end) })
	for range testSlots {
		<-h.begun
	}
	for range gate.FailuresMost {
		h.end <- struct{}{}
	}
	expect.Eventually(t, func() error {
		select {
		case <-h.served:
			return nil
		default:
			return errors.New("nobody else's call is made")
		}
	})
}

// TestChoosingEndsWhenClaimsFail: a claim that is never answered does not keep the breaker
// choosing for ever; the replica says that it is stopped, and asks.
func TestChoosingEndsWhenClaimsFail(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	mustAdd(t, s, "a", 1)
	config := s.pool.Config()
	config.ConnConfig.Tracer = cutShort("looked_fresh") // as a statement_timeout would
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	d := newDeliverer(t, NewStore(pool, "w1", testLimit, "interaction_request"), flextest.New(t))
	d.permits = limiter.New(4)
	for i := range gate.FailuresMost {
		d.changed(d.breaker.Observe(of("a", i), isFailing, time.Now()))
	}
	if !d.breaker.Is(gate.BreakerChoosing) {
		t.Fatal("it does not choose")
	}
	d.workers = newWorkers(0, func(Lease) { t.Error("it leased") })
	d.claim(t.Context(), d.permits.Take(4))
	if d.free() != 1 { // the others come back when it works again
		t.Errorf("%d permits are free", d.free())
	}
	if word, _, stopped := d.Stopped(); !d.breaker.IsOpen() || !stopped || word != gate.WordUnreachable {
		t.Errorf("it is %s", word)
	}
}

// watched is Flex; before each create call it calls begins.
type watched struct {
	creator
	begins func()
}

func (w watched) Create(ctx context.Context, i flex.Interaction) flex.Outcome {
	w.begins()
	return w.creator.Create(ctx, i)
}

// TestUnsentRequestIsNoAnswer: a replica that tries one call after it was stopped tries another where the first request
// cannot be sent: its attributes have a member of the name that LOOKUP_ATTRIBUTE got since. Only Flex's answer to the
// second closes the breaker.
func TestUnsentRequestIsNoAnswer(t *testing.T) {
	t.Parallel()
	srv := flextest.New(t)
	s := newStore(t)
	mustAdd(t, s, "u", 2, keyed, func(e *request.Event) {
		if e.RequestID == "u-1" {
			e.Request = bytes.Replace(e.Request, []byte(`"test_id"`), []byte(`"interaction_request"`), 1)
			e.Raw = e.Request
		}
	})
	d := newDeliverer(t, s, srv)
	trying := make(chan bool, 2)
	d.Flex = watched{d.Flex, func() { trying <- d.breaker.Is(gate.BreakerTrying) }}
	d.breaker.Observe(of("a", 1), flex.Outcome{Kind: flex.Blocked, HTTPStatus: 401, Message: "m"}, time.Now())
	start(t, d)
	for i := range 2 {
		if !<-trying {
			t.Errorf("call %d began with a breaker that tries no more", i+1)
		}
	}
	expect.Eventually(t, func() error {
		if !d.breaker.IsClosed() {
			return errors.New("the breaker is not closed")
		}
		return nil
	})
	inState(t, s, request.Created, 1)
	if r := s.row(t, "u-1"); r.State != request.Rejected || srv.Calls().Received != 1 {
		t.Errorf("%s after %d calls", r.State, srv.Calls().Received)
	}
}

// TestUnrecordedAnswerIsNotSentAgain: Flex answered, recording it failed for good. There is
// never a second POST unasked (hookdeck/outpost#276).
func TestUnrecordedAnswerIsNotSentAgain(t *testing.T) {
	t.Parallel()
	srv := flextest.New(t)
	s := newStore(t)
	id := mustAdd(t, s, "a", 1)[0]
	// The schema itself refuses the record, so it is not tried again either.
	pgtest.Exec(t, s.pool, `ALTER TABLE outbox ADD CONSTRAINT nothing_is_created CHECK (state <> 'created')`)
	start(t, newDeliverer(t, s, srv))
	expect.Eventually(t, func() error { return srv.Wait(t.Context(), func(c flextest.Calls) bool { return c.Created == 1 }) })
	pgtest.Exec(t, s.pool, `UPDATE outbox SET leased_until = clock_timestamp() - interval '1 second' WHERE state = 'sending'`)
	if n, err := s.lapse(t.Context()); err != nil || n != 1 {
		t.Fatal(n, err)
	}
	mustClaim(t, s, 0)
	if r := s.row(t, id); r.State != request.Uncertain || srv.Calls().Received != 1 {
		t.Errorf("%s after %d calls", r.State, srv.Calls().Received)
	}
}

// TestShortLeaseBeginsNoCall: what is left of a lease has to cover the
// longest call, or the call is not begun (hexpm/hexpm#1825).
func TestShortLeaseBeginsNoCall(t *testing.T) {
	t.Parallel()
	srv := flextest.New(t)
	s := newStore(t)
	id := mustAdd(t, s, "a", 1)[0]
	d := newDeliverer(t, s, srv)
	d.prepare(t.Context())
	l := mustClaim(t, s, 1)[0]
	l.Until = time.Now().Add(testLimit + sendMargin - time.Millisecond)
	d.permits.Take(1)
	d.deliver(t.Context(), l)
	if r := s.row(t, id); r.State != request.Pending || r.Uncounted != 1 || srv.Calls().Received != 0 {
		t.Errorf("%s, uncounted %d, %d calls", r.State, r.Uncounted, srv.Calls().Received)
	}
}

// TestPollFindsWhatNobodyAnnounced: what nobody announced is found by the poll
// (timgit/pg-boss#850). There is no LISTEN to go silent.
func TestPollFindsWhatNobodyAnnounced(t *testing.T) {
	t.Parallel()
	srv := flextest.New(t)
	s := newStore(t)
	start(t, newDeliverer(t, s, srv))
	mustAdd(t, s.another("w2"), "a", 1) // whose hint stays in its own process
	inState(t, s, request.Created, 1)
}
