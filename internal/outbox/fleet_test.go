package outbox

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"flexworker/internal/flex"
	"flexworker/internal/outbox/gate"
	"flexworker/internal/outbox/request"
	"flexworker/internal/testing/expect"
	"flexworker/internal/testing/flextest"
	"flexworker/internal/testing/pgtest"
)

// quiet is for fleets, whose attempts are too many to be read.
var quiet = slog.New(slog.DiscardHandler)

// A clerk takes calls at once and notes when each was made. It stands for Flex
// where only the number of calls matters.
type clerk struct {
	mu    sync.Mutex
	calls []time.Time
}

func (c *clerk) Create(context.Context, flex.Interaction) flex.Outcome {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.calls = append(c.calls, time.Now())
	o := good
	o.InteractionSID = fmt.Sprintf("KD%032x", len(c.calls))
	return o
}

func (c *clerk) Check(context.Context) flex.Outcome { return good }

// patience is the limit of a call where no test is about that limit: a machine that stands still for some seconds would make
// a good call uncertain, and nobody looks for it here.
const patience = expect.Patience

// patient is a client whose calls are never cut.
func patient(t *testing.T, srv *flextest.Server) *flex.Client {
	t.Helper()
	return newClient(t, srv, patience)
}

// fleet starts n Dispatchers, each with a Store of its own, as n processes have.
func fleet(t *testing.T, s *Store, n int, to creator, change func(*Dispatcher)) []*Dispatcher {
	t.Helper()
	all := make([]*Dispatcher, n)
	for i := range all {
		all[i] = &Dispatcher{Store: NewStore(s.pool, fmt.Sprintf("w%d", i+1), patience, "interaction_request"), Flex: to, Concurrency: testSlots, Limit: patience, Log: quiet, Counters: &Counters{},
			Policy: request.Policy{MinDelay: time.Millisecond, MaxDelay: time.Millisecond, MaxAttempts: 10, Settle: time.Minute}}
		if change != nil {
			change(all[i])
		}
		start(t, all[i])
	}
	return all
}

// worst is by how much, in any window that begins and ends with a call, there
// were more calls than rate times its length.
func worst(calls []time.Time, rate float64) float64 {
	slices.SortFunc(calls, time.Time.Compare)
	over := 0.0
	for i := range calls {
		for j := i; j < len(calls); j++ {
			over = max(over, float64(j-i+1)-rate*calls[j].Sub(calls[i]).Seconds())
		}
	}
	return over
}

// TestFleetRate: 1, 3 and 10 replicas keep to one rate and use all of it.
//
// What is held against the rate exactly is the claim, by Postgres's clock: every
// window has at most rate times its length and one burst. A call follows its
// claim after some time, so that calls of an early and a late claim may come
// closer together by what the slowest took; the allowance is that time's worth,
// measured. What is used of it is measured by that clock too, from the first
// claim to the last.
func TestFleetRate(t *testing.T) {
	t.Parallel()
	const rate, backlog = 40.0, 160
	for _, replicas := range []int{1, 3, 10} {
		t.Run(fmt.Sprint(replicas), func(t *testing.T) {
			t.Parallel()
			// A machine that is late for more than gate.BurstTime loses tokens, which is no fault of the gate. One good
			// run shows that it gives them all; three bad ones in which the machine was not late, that it does not.
			bad := 0
			for range 10 {
				used, late := rateUsed(t, replicas, rate, backlog)
				if used >= 0.97 || t.Failed() {
					return
				}
				if late < gate.BurstTime/4 {
					bad++
				}
				if bad == 3 {
					t.Fatalf("%.1f %% of the rate is used", 100*used)
				}
			}
			t.Log("the machine was late in nearly all runs: how much of the rate is used was not seen")
		})
	}
}

// lateness measures by how much the machine wakes a sleeper too late, at most, until it is asked.
func lateness(t *testing.T) (most func() time.Duration) {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	measured := make(chan time.Duration, 1)
	go func() {
		const step = 5 * time.Millisecond
		worst := time.Duration(0)
		for ctx.Err() == nil {
			began := time.Now()
			<-time.After(step)
			worst = max(worst, time.Since(began)-step)
		}
		measured <- worst
	}()
	return func() time.Duration { stop(); return <-measured }
}

// rateUsed runs a fleet until the backlog is sent, checks that it kept to the
// rate, and says how much of it was used, and how late the machine was meanwhile.
func rateUsed(t *testing.T, replicas int, rate float64, backlog int) (used float64, late time.Duration) {
	t.Helper()
	s := newStore(t)
	mustAdd(t, s, "f", backlog)
	if err := s.SetRate(t.Context(), rate); err != nil {
		t.Fatal(err)
	}
	pgtest.Exec(t, s.pool, `CREATE TABLE stamps (at timestamptz, passed int)`)
	pgtest.Exec(t, s.pool, `CREATE FUNCTION stamp() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
		INSERT INTO stamps VALUES (NEW.refilled_at, round(least(`+fmt.Sprint(gate.Burst(rate))+`, OLD.tokens +
			OLD.rate * extract(epoch FROM NEW.refilled_at - OLD.refilled_at)) - NEW.tokens)); RETURN NEW; END $$`)
	pgtest.Exec(t, s.pool, `CREATE TRIGGER stamp BEFORE UPDATE OF tokens, refilled_at ON outbox_gate FOR EACH ROW EXECUTE FUNCTION stamp()`)
	c := &clerk{}
	measured := lateness(t)
	fleet(t, s, replicas, c, nil)
	inState(t, s, request.Created, backlog)
	late = measured()
	claims := pgtest.One[[]time.Time](t, s.pool, `SELECT array_agg(at ORDER BY at) FROM stamps, generate_series(1, passed)`)
	if len(claims) != backlog || len(c.calls) != backlog {
		t.Fatalf("%d claims, %d calls", len(claims), len(c.calls))
	}
	if over := worst(claims, rate); over > gate.Burst(rate)+0.01 { // what microseconds round off
		t.Errorf("a window has %.2f claims more than the rate allows, a burst is %.1f", over, gate.Burst(rate))
	}
	// How close together the calls themselves come is up to the machine; it is told, not judged.
	over := worst(c.calls, rate)
	first := int(gate.Burst(rate)) // what was saved up is not counted as used
	used = float64(backlog-1-first) / (rate * claims[backlog-1].Sub(claims[first]).Seconds())
	t.Logf("%d replicas: %.1f %% of the rate used, at most %.1f claims over, %.1f calls, the machine late by %v", replicas, 100*used, worst(claims, rate), over, late)
	return used, late
}

// TestFleetPauses: a 429 with Retry-After stops every replica for that time.
func TestFleetPauses(t *testing.T) {
	t.Parallel()
	srv := flextest.New(t)
	s := newStore(t)
	mustAdd(t, s, "p", 300)
	srv.Set(flextest.Settings{Latency: 5 * time.Millisecond})
	srv.Script("p-100", flextest.Status(429).RetryAfter("2"))
	// What a claim knows of the pause is kept beside what it leases: a function that is STABLE reads what the claim's statement reads.
	pgtest.Exec(t, s.pool, `ALTER TABLE outbox ADD COLUMN pause_seen timestamptz`)
	pgtest.Exec(t, s.pool, `CREATE FUNCTION see_pause() RETURNS trigger LANGUAGE plpgsql STABLE AS $$ BEGIN
		NEW.pause_seen := (SELECT paused_until FROM outbox_gate); RETURN NEW; END $$`)
	pgtest.Exec(t, s.pool, `CREATE TRIGGER see_pause BEFORE UPDATE ON outbox FOR EACH ROW WHEN (OLD.state = 'pending' AND NEW.state = 'sending') EXECUTE FUNCTION see_pause()`)
	client := patient(t, srv)
	fleet(t, s, 3, client, nil)
	expect.Eventually(t, func() error {
		if g := readGate(t, s); g.State != gate.Paused {
			return fmt.Errorf("%+v", g)
		}
		return nil
	})
	// What was claimed before the pause was recorded may still be sent, on a busy machine long after. Nothing is claimed in it.
	inState(t, s, request.Created, 300)
	if n := pgtest.One[int](t, s.pool, `SELECT count(*) FROM outbox WHERE attempt_began_at < pause_seen`); n != 0 {
		t.Errorf("%d claims in the pause", n)
	}
	if n := pgtest.One[int](t, s.pool, `SELECT count(*) FROM outbox WHERE pause_seen IS NOT NULL`); n == 0 {
		t.Error("no claim saw the pause, not even that of the request that asked for it: this test sees nothing")
	}
	if n := pgtest.One[int](t, s.pool, `SELECT count(*) FROM outbox WHERE attempt - uncounted <> 1`); n != 0 || len(srv.Ledger()) != 300 {
		t.Errorf("%d paid for it; %d created", n, len(srv.Ledger()))
	}
	pgtest.CheckOutbox(t, s.pool)
}

// stops waits until each replica is stopped with this word.
func stops(t *testing.T, word gate.Word, all ...*Dispatcher) {
	t.Helper()
	expect.Eventually(t, func() error {
		for _, d := range all {
			if is, reason, _ := d.Stopped(); is != word {
				return fmt.Errorf("a replica is %s: %s", is, reason)
			}
		}
		return nil
	})
}

// TestFleetForbidden: the 403s of one request end with that request and stop nobody;
// those of two sources stop a replica until a read contradicts them; a suspended
// account stops at once.
func TestFleetForbidden(t *testing.T) {
	t.Parallel()
	t.Run("one request", func(t *testing.T) {
		t.Parallel()
		srv := flextest.New(t)
		srv.Inject(flextest.Rule{Fault: flextest.Status(403).Code(45003), Attribute: "test_id", Value: "f-1"})
		s := newStore(t)
		mustAdd(t, s, "f", 50)
		fleet(t, s, 3, patient(t, srv), nil)
		inState(t, s, request.Created, 49)
		inState(t, s, request.Abandoned, 1)
		if n := srv.Calls().Fetched; n != 0 {
			t.Errorf("a replica has stopped and asked %d times", n)
		}
		const most = 10 // of fleet's policy
		if r := s.row(t, "f-1"); r.Attempt != 2*most || r.Uncounted != most {
			t.Errorf("%+v", r)
		}
	})
	t.Run("everybody", func(t *testing.T) {
		t.Parallel()
		srv := flextest.New(t)
		srv.Inject(flextest.Rule{Fault: flextest.Status(403).Code(45003)})
		srv.Set(flextest.Settings{FetchTrouble: flextest.Status(401)})
		s := newStore(t)
		mustAdd(t, s, "f", 25)
		mustAdd(t, s, "g", 25, func(e *request.Event) { e.Sequence += 1000 }, from("shop"))
		pgtest.Exec(t, s.pool, `UPDATE outbox SET priority = stream_sequence % 10`) // mixed
		stops(t, gate.WordUnauthorized, fleet(t, s, 1, patient(t, srv), func(d *Dispatcher) { d.Concurrency = 1 })...)
		if n := srv.Calls().Received; n < gate.RefusedMost || n > 10 {
			t.Errorf("%d calls until it stopped", n)
		}
	})
	t.Run("suspended", func(t *testing.T) {
		t.Parallel()
		srv := flextest.New(t)
		srv.Suspend()
		s := newStore(t)
		mustAdd(t, s, "f", 50)
		stops(t, gate.WordUnauthorized, fleet(t, s, 1, patient(t, srv), func(d *Dispatcher) { d.Concurrency = 1 })...)
		if n := srv.Calls().Received; n != 1 {
			t.Errorf("%d calls until it stopped", n)
		}
		if n := pgtest.One[int](t, s.pool, `SELECT coalesce(sum(attempt - uncounted), 0)::int FROM outbox WHERE state <> 'sending'`); n != 0 {
			t.Errorf("%d attempts were spent", n)
		}
	})
}

// TestOneTenantStopsNobody: what fails for one source alone, ahead of another's
// requests, behind them or among them, costs the others nothing but the first attempts
// that stand before theirs. A 403 may be in vain as often as it likes; of what may have
// arrived each request is tried once.
func TestOneTenantStopsNobody(t *testing.T) {
	t.Parallel()
	const each = 200
	for _, replicas := range []int{1, 3} {
		for _, fault := range []flextest.Fault{flextest.Status(403).Code(45003), flextest.Status(500), flextest.Reset} {
			for _, order := range []string{"ahead", "behind", "among"} {
				t.Run(fmt.Sprintf("%d replicas, %s %s", replicas, fault, order), func(t *testing.T) {
					t.Parallel()
					srv := flextest.New(t)
					srv.Inject(flextest.Rule{Fault: fault, Attribute: "test_source", Value: "bad"})
					s := newStore(t)
					add := func(prefix string) {
						mustAdd(t, s, prefix, each, from(prefix), func(e *request.Event) {
							e.Request = bytes.Replace(e.Request, []byte(`"attributes":{`), fmt.Appendf(nil, `"attributes":{"test_source":%q,`, prefix), 1)
						})
					}
					if order == "behind" {
						add("good")
						add("bad")
					} else {
						add("bad")
						add("good")
					}
					if order == "among" {
						pgtest.Exec(t, s.pool, `UPDATE outbox SET due_at = now() - interval '1 minute' + stream_sequence * interval '1 ms'`)
					}
					all := fleet(t, s, replicas, patient(t, srv), func(d *Dispatcher) {
						d.Policy.MinDelay, d.Policy.MaxDelay = time.Second, time.Minute
					})
					expect.Eventually(t, func() error {
						// Who has nothing but the bad ones left may stop. Good ones that are pending now were so before.
						for _, d := range all {
							word, reason, stopped := d.Stopped()
							if left := pgtest.One[int](t, s.pool, `SELECT count(*) FROM outbox WHERE source = 'good' AND state = 'pending'`); stopped && left > 0 && order != "behind" {
								t.Fatalf("a replica is %s while %d of the good wait: %s", word, left, reason)
							}
						}
						return expect.Is("created", pgtest.One[int](t, s.pool, `SELECT count(*) FROM outbox WHERE state = 'created'`), each)
					})
					if n := srv.Calls().Fetched; n > replicas { // none where two sources' calls were tried, but for a choice that found nothing due
						t.Errorf("stopped replicas asked %d times", n)
					}
					// Of a 403 nothing is counted; of the others each request is tried once.
					if n := pgtest.One[int](t, s.pool, `SELECT count(*) FROM outbox WHERE source = 'bad' AND attempt - uncounted > 1`); n != 0 {
						t.Errorf("%d of the bad were tried more than once", n)
					}
					if n := pgtest.One[int](t, s.pool, `SELECT count(*) FROM outbox WHERE source = 'good' AND attempt > 1 + uncounted`); n != 0 {
						t.Errorf("%d of the good paid", n)
					}
				})
			}
		}
	}
}

// TestOneTenantAtARate: where the fleet keeps to a rate, 200 requests of a source that fail, ahead
// of 200 of another, cost these no more time than they take alone once more, and the bad ones' first
// attempts. Calls at the rate are the clock: what is counted is how many calls were made until the
// last good one was created.
func TestOneTenantAtARate(t *testing.T) {
	t.Parallel()
	const each, rate = 200, 100.0
	for _, replicas := range []int{1, 3} {
		for _, fault := range []flextest.Fault{flextest.Status(403).Code(45003), flextest.Status(500)} {
			t.Run(fmt.Sprintf("%d replicas, %s", replicas, fault), func(t *testing.T) {
				t.Parallel()
				srv := flextest.New(t)
				srv.Inject(flextest.Rule{Fault: fault, Attribute: "test_source", Value: "bad"})
				s := newStore(t)
				for _, source := range []string{"bad", "good"} {
					mustAdd(t, s, source, each, from(source), func(e *request.Event) {
						e.Request = bytes.Replace(e.Request, []byte(`"attributes":{`), fmt.Appendf(nil, `"attributes":{"test_source":%q,`, source), 1)
					})
				}
				if err := s.SetRate(t.Context(), rate); err != nil {
					t.Fatal(err)
				}
				fleet(t, s, replicas, patient(t, srv), func(d *Dispatcher) {
					d.Policy.MinDelay, d.Policy.MaxDelay = time.Second, 5*time.Minute
				})
				inState(t, s, request.Created, each)
				calls := pgtest.One[int](t, s.pool, `SELECT count(*) FROM outbox_attempts WHERE outcome <> 'released' AND
					started_at <= (SELECT max(started_at) FROM outbox_attempts WHERE outcome = 'created')`)
				// What was released took a pass of the rate as well.
				back := pgtest.One[int](t, s.pool, `SELECT count(*) FROM outbox_attempts WHERE outcome = 'released'`)
				t.Logf("%d calls until the last good one, %d released", calls, back)
				if most := 2*each + each + int(gate.Burst(rate)); calls+back > most {
					t.Errorf("%d calls and %d released until the last good one was created, want at most %d", calls, back, most)
				}
			})
		}
	}
}

// TestFailuresOfOneTenantAlone: where nobody else's request is due, a replica stops
// after a few failures of one source: each may cost an uncertain request.
func TestFailuresOfOneTenantAlone(t *testing.T) {
	t.Parallel()
	srv := flextest.New(t)
	srv.Inject(flextest.Rule{Fault: flextest.Status(500)}) // reads succeed
	s := newStore(t)
	mustAdd(t, s, "o", 300)
	all := fleet(t, s, 1, patient(t, srv), nil)
	expect.Eventually(t, func() error {
		if why := all[0].Failing(); !strings.Contains(why, "HTTP 500") {
			return fmt.Errorf("it says %q", why)
		}
		return nil
	})
	if err := srv.Wait(t.Context(), func(c flextest.Calls) bool { return c.Fetched >= 3 }); err != nil { // it tries again
		t.Fatal(err)
	}
	if word, _, stopped := all[0].Stopped(); stopped { // reads succeed
		t.Errorf("it is %s", word)
	}
	// After each read one call is tried; the reads are counted later, for they go on.
	n := pgtest.One[int](t, s.pool, `SELECT count(*) FROM outbox WHERE state = 'uncertain'`)
	if reads := srv.Calls().Fetched; n > gate.FailuresMost+testSlots+reads {
		t.Errorf("%d are uncertain after %d reads", n, reads)
	}
}

// TestNotTwilio: who answers in place of Twilio, whatever it says, stops the replica
// after a few calls; nothing is refused for good, and once the address is right all is
// created, by reads that tell.
func TestNotTwilio(t *testing.T) {
	t.Parallel()
	for name, answer := range map[string]func(http.ResponseWriter){
		"404 in HTML":  func(w http.ResponseWriter) { w.WriteHeader(404); _, _ = w.Write([]byte("<html>not here</html>")) },
		"404 in JSON":  func(w http.ResponseWriter) { w.WriteHeader(404); _, _ = w.Write([]byte(`{"error":"not found"}`)) },
		"403":          func(w http.ResponseWriter) { w.WriteHeader(403) },
		"429":          func(w http.ResponseWriter) { w.Header().Set("Retry-After", "600"); w.WriteHeader(429) },
		"200, another": func(w http.ResponseWriter) { _, _ = w.Write([]byte(`{"ok":true}`)) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			srv := flextest.New(t)
			right := newDeliverer(t, newStore(t), srv).Flex
			foreign := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { answer(w) }))
			defer foreign.Close()
			wrong, err := flex.New(flex.Config{URL: foreign.URL, TaskRouterURL: foreign.URL, Credentials: func() (string, string) { return "AC1", "secret-token" }, Timeout: testLimit, Concurrency: testSlots})
			if err != nil {
				t.Fatal(err)
			}
			s := newStore(t)
			mustAdd(t, s, "n", 50)
			mustAdd(t, s, "m", 50, func(e *request.Event) { e.Sequence += 1000 }, from("shop"))
			address := &switched{}
			address.to.Store(wrong)
			d := fleet(t, s, 1, address, nil)
			stops(t, gate.WordUnreachable, d...)
			uncertain := pgtest.One[int](t, s.pool, `SELECT count(*) FROM outbox WHERE state = 'uncertain'`)
			if uncertain > gate.FailuresMost+testSlots {
				t.Errorf("%d are uncertain", uncertain)
			}
			if n := pgtest.One[int](t, s.pool, `SELECT count(*) FROM outbox WHERE state NOT IN ('pending', 'sending', 'uncertain')`); n != 0 {
				t.Errorf("%d are decided by somebody who is not Twilio", n)
			}
			if g := readGate(t, s); g.State != gate.Open {
				t.Errorf("the fleet is %s by somebody who is not Twilio", g.State)
			}
			address.to.Store(right)
			expect.Eventually(t, func() error {
				if n := pgtest.One[int](t, s.pool, `SELECT count(*) FROM outbox WHERE state IN ('created', 'uncertain')`); n != 100 {
					return fmt.Errorf("%d are created or uncertain", n)
				}
				return nil
			})
			if twice := srv.Duplicates(); len(twice) > 0 {
				t.Errorf("created twice: %v", twice)
			}
		})
	}
}

// switched is a Flex whose address is put right.
type switched struct{ to atomic.Value }

func (s *switched) Create(ctx context.Context, i flex.Interaction) flex.Outcome {
	return s.to.Load().(creator).Create(ctx, i)
}

func (s *switched) Check(ctx context.Context) flex.Outcome { return s.to.Load().(creator).Check(ctx) }

// TestFleetOutage: while Flex fails, few of many waiting requests become
// uncertain, and the work goes on by itself when it is back.
func TestFleetOutage(t *testing.T) {
	t.Parallel()
	const replicas, waiting = 3, 300
	for _, tt := range []struct {
		name      string
		begin     func(*flextest.Server)
		end       func(*flextest.Server) error
		uncertain int // at most
	}{
		{"refuses connections", func(srv *flextest.Server) { srv.Down() }, (*flextest.Server).Up, 0},
		{"503", func(srv *flextest.Server) {
			srv.Inject(flextest.Rule{Fault: flextest.Status(503)})
			srv.Set(flextest.Settings{FetchTrouble: flextest.Status(503)})
		}, func(srv *flextest.Server) error { srv.Clear(); srv.Set(flextest.Settings{}); return nil }, replicas * (gate.FailuresMost + testSlots)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			srv := flextest.New(t)
			tt.begin(srv)
			s := newStore(t)
			mustAdd(t, s, "o", waiting)
			all := fleet(t, s, replicas, patient(t, srv), nil)
			stops(t, gate.WordUnreachable, all...)
			calls := srv.Calls()
			asked := make([]time.Time, len(all))
			for i, d := range all {
				asked[i] = d.breaker.NextAsk()
			}
			expect.Eventually(t, func() error { // each has asked once more, in vain
				for i, d := range all {
					if !d.breaker.NextAsk().After(asked[i].Add(gate.AskEvery / 2)) {
						return fmt.Errorf("replica %d has not asked again", i+1)
					}
				}
				return nil
			})
			if n := srv.Calls().Received - calls.Received; n > replicas*testSlots {
				t.Errorf("%d calls of stopped replicas", n)
			}
			inState(t, s, request.Sending, 0) // a call from before they stopped may take long
			uncertain := pgtest.One[int](t, s.pool, `SELECT count(*) FROM outbox WHERE state = 'uncertain'`)
			t.Logf("%d uncertain, %d attempts", uncertain, pgtest.One[int](t, s.pool, `SELECT count(*) FROM outbox_attempts`))
			if uncertain > tt.uncertain {
				t.Errorf("%d requests are uncertain, at most %d may be", uncertain, tt.uncertain)
			}
			if err := tt.end(srv); err != nil {
				t.Fatal(err)
			}
			inState(t, s, request.Created, waiting-uncertain)
			if n := len(srv.Ledger()); n != waiting-uncertain {
				t.Errorf("%d created", n)
			}
			pgtest.CheckOutbox(t, s.pool)
		})
	}
}

// TestFleetNewBeforeOld: 500 requests that are tried again, due for hours, do not
// stand before 20 that have just come.
func TestFleetNewBeforeOld(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	mustAdd(t, s, "old", 500)
	pgtest.Exec(t, s.pool, `UPDATE outbox SET attempt = 1, uncounted = 1, due_at = now() - interval '5 hours'`)
	mustAdd(t, s, "new", 20, func(e *request.Event) { e.Sequence += 1000 })
	left, claims := 20, 0
	for ; left > 0 && claims < 20; claims++ {
		for _, l := range mustClaim(t, s, testSlots) {
			if l.Attempt == 1 {
				left--
			}
		}
	}
	if left > 0 || claims > 5 { // half of the 8 permits each time
		t.Errorf("after %d claims of %d, %d new ones are left", claims, testSlots, left)
	}
	// Nor do new ones stand before old ones.
	old := 0
	mustAdd(t, s, "more", 100, func(e *request.Event) { e.Sequence += 2000 })
	for range 4 {
		for _, l := range mustClaim(t, s, testSlots) {
			if l.Attempt > 1 {
				old++
			}
		}
	}
	if old != 2*testSlots {
		t.Errorf("%d of %d permits went to old ones", old, 4*testSlots)
	}
}
