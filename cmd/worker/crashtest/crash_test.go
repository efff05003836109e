package crashtest

import (
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"flexworker/internal/testing/expect"
	"flexworker/internal/testing/flextest"
	"flexworker/internal/testing/pgtest"
)

// requests of each history; 16 of them are claimed at once.
const requests = 20

// root is the module's folder.
const root = "../../.."

// A point is one of internal/crash, and what a worker that is alone leaves when
// it dies there.
type point struct {
	name    string
	filled  bool             // the requests are in the table before it starts
	faults  []flextest.Fault // of its first calls
	expires bool             // one request more, whose deadline has passed
	confirm bool             // CONFIRM is on, in all replicas
	left    func(r *rig) error
}

// left is the state of the table by a query that counts.
func left(sql string, want int) func(*rig) error {
	return func(r *rig) error { return expect.Is(sql, r.count(`SELECT count(*) FROM outbox WHERE `+sql), want) }
}

func all(checks ...func(*rig) error) func(*rig) error {
	return func(r *rig) error {
		for _, check := range checks {
			if err := check(r); err != nil {
				return err
			}
		}
		return nil
	}
}

// some: at least one row.
func some(sql string) func(*rig) error {
	return func(r *rig) error {
		return expect.Is("some "+sql, r.count(`SELECT count(*) FROM outbox WHERE `+sql) > 0, true)
	}
}

func calls(what string, ok func(flextest.Calls) bool) func(*rig) error {
	return func(r *rig) error { return expect.Is(what, ok(r.flex.Calls()), true) }
}

func someUnacked(r *rig) error { return expect.Is("some messages not acked", r.unacked() > 0, true) }

func results(ok func(n int) bool) func(*rig) error {
	return func(r *rig) error {
		n := r.messages()
		return expect.Is(fmt.Sprintf("results as expected (%d)", n), ok(n), true)
	}
}

// unrecorded: all that was claimed stands in sending, the first 16 at least. A
// slot is free again when its call has ended, so there may be more.
func unrecorded(r *rig) error {
	return all(left(`state IN ('sending', 'pending')`, requests), func(r *rig) error {
		return expect.Is("16 or more in sending", r.count(`SELECT count(*) FROM outbox WHERE state = 'sending'`) >= 16, true)
	})(r)
}

// doubtful: two interactions whose answers are lost, two that were never made.
var doubtful = []flextest.Fault{flextest.CreateThenReset, flextest.Reset, flextest.CreateThen(flextest.Status(503)), flextest.Status(503)}

// points are all there are; TestEveryPoint says so when one is missing.
var points = []point{
	{name: "received", left: someUnacked},
	{name: "added", left: all(someUnacked, some(`true`))},
	{name: "claiming", filled: true, left: all(left(`state = 'pending' AND attempt = 0`, requests), calls("no call", func(c flextest.Calls) bool { return c.Received == 0 }))},
	{name: "claimed", filled: true, left: all(left(`state = 'sending'`, 16), left(`state = 'pending'`, 4), calls("no call", func(c flextest.Calls) bool { return c.Received == 0 }))},
	{name: "sending", filled: true, left: all(left(`state = 'sending'`, 16), left(`state = 'pending'`, 4))},
	{name: "answered", filled: true, left: all(unrecorded, calls("a creation", func(c flextest.Calls) bool { return c.Created > 0 }))},
	{name: "recording", filled: true, left: all(unrecorded, calls("a creation", func(c flextest.Calls) bool { return c.Created > 0 }))},
	{name: "recorded", filled: true, left: all(some(`state = 'created'`), left(`published_at IS NOT NULL`, 0), results(func(n int) bool { return n == 0 }))},
	{name: "published", filled: true, left: all(some(`state = 'created'`), left(`published_at IS NOT NULL`, 0), results(func(n int) bool { return n > 0 }))},
	{name: "marked", filled: true, left: all(some(`published_at IS NOT NULL`), results(func(n int) bool { return n > 0 }))},
	{name: "swept", filled: true, expires: true, left: left(`state = 'expired' AND published_at IS NULL`, 1)},
	{name: "asking", filled: true, faults: doubtful, left: all(some(`state = 'uncertain' AND lookups = 1 AND due_at > now()`), left(`state = 'created' AND resolved_by = 'lookup'`, 0))},
	{name: "found", filled: true, faults: doubtful, left: all(some(`state = 'uncertain' AND lookups = 1 AND due_at > now()`), left(`state = 'created' AND resolved_by = 'lookup'`, 0))},
	{name: "resolved", filled: true, faults: doubtful, left: some(`state = 'created' AND resolved_by = 'lookup' OR state = 'uncertain' AND lookups = 1`)},
	{name: "setup_taken", filled: true, confirm: true, left: all(some(postponed), calls("no look", func(c flextest.Calls) bool { return c.Channels == 0 }))},
	{name: "setup_seen", filled: true, confirm: true, left: all(some(postponed), calls("a look", func(c flextest.Calls) bool { return c.Channels > 0 }))},
	{name: "setup_stored", filled: true, confirm: true, left: some(`id IN (SELECT id FROM outbox_setups WHERE word = 'confirmed')`)},
}

// postponed: a look was taken, and nothing is known of it.
const postponed = `id IN (SELECT id FROM outbox_setups WHERE word IS NULL AND checks = 0 AND due_at > clock_timestamp() + interval '5 s')`

// TestEveryPoint: every point that the sources name has its row above.
func TestEveryPoint(t *testing.T) {
	t.Parallel()
	at := regexp.MustCompile(`\bcrash\.At\("([^"]*)"\)`)
	var named, listed []string
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		text, err := os.ReadFile(path)
		for _, m := range at.FindAllSubmatch(text, -1) {
			named = append(named, string(m[1]))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range points {
		listed = append(listed, p.name)
	}
	listed = append(listed, "acted") // TestCrashBeforeTheAnswer
	slices.Sort(named)
	slices.Sort(listed)
	if !slices.Equal(named, listed) {
		t.Errorf("the sources name the points %q, the table has %q", named, listed)
	}
}

// TestCrashAlone: the only replica dies at each point in turn. What it leaves is
// what outbox/doc.go says; a new one finds it and ends it well.
func TestCrashAlone(t *testing.T) {
	t.Parallel()
	for _, p := range points {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			expired := r.prepare(p)
			w := r.start(p.name+":1", p.settings()...)
			if !p.filled {
				r.send("a", requests, "")
			}
			if err := w.killed(expect.Patience); err != nil {
				t.Fatal(err)
			}
			if err := p.left(r); err != nil {
				t.Errorf("left behind: %v: %s", err, r.states())
			}
			r.hurry()
			r.lapse(w)
			begun := time.Now()
			r.start("", p.settings()...)
			r.balanced(expired)
			r.confirmed(p)
			t.Logf("healed in %v", time.Since(begun).Round(100*time.Millisecond))
		})
	}
}

// TestCrashBeforeTheAnswer: a replica dies between an act over the API and its answer. Another replica is asked again
// with the same idempotency key: it never acts, and says that nobody knows.
func TestCrashBeforeTheAnswer(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	hold := func(w *replica) (status int, text string, err error) {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+w.admin()+"/api/v1/gate/hold", strings.NewReader(`{"why":"a test"}`))
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("Authorization", "Bearer "+adminToken)
		request.Header.Set("Content-Type", "application/json")
		request.Header.Set("Idempotency-Key", "k")
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			return 0, "", err
		}
		defer response.Body.Close()
		body, err := io.ReadAll(response.Body)
		return response.StatusCode, string(body), err
	}
	held := func() (int, int) {
		return r.count(`SELECT count(*) FROM outbox_acts WHERE act = 'hold'`), r.count(`SELECT count(*) FROM outbox_gate WHERE held_since IS NOT NULL`)
	}
	admin := []string{"ADMIN_ADDR=127.0.0.1:0", "ADMIN_TOKEN=" + adminToken}
	w := r.start("acted:1", admin...).consuming()
	if status, text, err := hold(w); err == nil {
		t.Errorf("it answered: %d %s", status, text)
	}
	if err := w.killed(expect.Patience); err != nil {
		t.Fatal(err)
	}
	other := r.start("", admin...).consuming()
	for _, want := range []string{"under-way", "interrupted"} {
		status, text, err := hold(other)
		if err != nil || status != http.StatusConflict || !strings.Contains(text, "urn:flexworker:problem:"+want) {
			t.Errorf("%d %s, %v", status, text, err)
		}
		pgtest.Exec(t, r.pool, `UPDATE outbox_idempotency_keys SET begun_at = begun_at - interval '61 seconds'`)
	}
	if acts, gate := held(); acts != 1 || gate != 1 {
		t.Errorf("%d acts, held %d", acts, gate)
	}
}

// prepare fills the world as a point wants it, and returns how many requests
// will expire.
func (r *rig) prepare(p point) (expired int) {
	if p.filled {
		r.fill(requests)
	}
	if p.expires {
		expired = 1
		r.send("late", 1, `,"expires_at":"2026-01-01T00:00:00Z"`)
	}
	r.flex.Next(p.faults...)
	return expired
}

// unhurried cuts no call, however busy the machine is.
const unhurried = "FLEX_TIMEOUT=20s"

// settings are those of the replicas, beside the usual ones.
func (p point) settings() []string {
	if !p.confirm {
		return []string{unhurried}
	}
	return []string{unhurried, "CONFIRM=true", "CONFIRM_RATE=500"}
}

// confirmed waits until every created request has its word, each once, with CONFIRM.
func (r *rig) confirmed(p point) {
	r.t.Helper()
	if !p.confirm {
		return
	}
	expect.Eventually(r.t, func() error {
		r.hurry() // a replica that was killed late has taken looks after the last hurry
		return expect.Is("published words", r.count(`SELECT count(*) FROM outbox_setups WHERE word = 'confirmed' AND published_at IS NOT NULL`), len(r.flex.Ledger()))
	})
	words := r.published(func(outcome string) bool { return outcome == "confirmed" })
	for _, e := range r.flex.Ledger() {
		if got := words[e.TestID]; len(got) != 1 || got[0] != e.InteractionSID {
			r.t.Errorf("%s has the words %q, and Flex created %s", e.TestID, got, e.InteractionSID)
		}
	}
}

// hurry makes the 45 s pass after which the lookups, and the looks at set-ups, of a dead replica are made again.
func (r *rig) hurry() {
	pgtest.Exec(r.t, r.pool, `UPDATE outbox_setups SET due_at = clock_timestamp() WHERE word IS NULL AND due_at > clock_timestamp() + interval '5 s' AND checks = 0`)
	pgtest.Exec(r.t, r.pool, `UPDATE outbox SET due_at = clock_timestamp() WHERE state = 'uncertain' AND due_at > clock_timestamp() AND lookups > 0`)
}

// lapse makes the time pass that the leases of a replica have left, which is dead or stands still.
func (r *rig) lapse(w *replica) {
	pgtest.Exec(r.t, r.pool, `UPDATE outbox SET leased_until = clock_timestamp() WHERE state = 'sending' AND leased_by LIKE $1`, w.name())
}

// TestCrashAmongThree: one of three replicas dies at each point in turn; the two
// others never stop.
func TestCrashAmongThree(t *testing.T) {
	t.Parallel()
	for _, p := range points {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			expired := r.prepare(p)
			w := r.start(p.name+":1", p.settings()...)
			if !p.filled {
				r.send("a", requests, "")
			}
			r.start("", p.settings()...)
			r.start("", p.settings()...)
			// The others may leave it nothing to do at that point; then it dies elsewhere.
			if err := w.killed(4 * time.Second); err != nil {
				t.Logf("it did not come to the point: %v", err)
				w.signal(syscall.SIGKILL)
			}
			<-w.done
			r.hurry()
			r.lapse(w)
			begun := time.Now()
			r.balanced(expired)
			r.confirmed(p)
			t.Logf("healed in %v", time.Since(begun).Round(100*time.Millisecond))
		})
	}
}

// TestKilledReplicaIsReplaced: what a killed replica held is settled by the others, or back in the queue. The promise is
// the call's limit, the settle time and ten seconds on a machine that is not busy; the test says how long it took.
func TestKilledReplicaIsReplaced(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.fill(60)
	r.flex.Set(flextest.Settings{Latency: 700 * time.Millisecond})
	w := r.start("")
	held := func() int {
		return r.count(`SELECT count(*) FROM outbox WHERE state = 'sending' AND leased_by LIKE $1`, w.name())
	}
	expect.Eventually(t, func() error { return expect.Is("it holds some", held() >= 8, true) })
	r.start("")
	r.start("")
	w.signal(syscall.SIGKILL)
	killed := time.Now()
	<-w.done
	n := held()
	pgtest.Exec(t, r.pool, `CREATE TABLE held AS SELECT id FROM outbox WHERE state = 'sending' AND leased_by LIKE '`+w.name()+`'`)
	expect.Eventually(t, func() error {
		return expect.Is("neither settled nor in the queue", r.count(`SELECT count(*) FROM outbox JOIN held USING (id) WHERE state NOT IN ('created', 'pending')
			AND NOT EXISTS (SELECT FROM outbox_attempts a WHERE a.outbox_id = outbox.id AND a.kind = 'lookup' AND a.outcome = 'absent')`), 0)
	})
	t.Logf("%d requests that a killed replica held were settled or back in the queue after %v; the promise is %v", n, time.Since(killed).Round(100*time.Millisecond), timeout+settle+10*time.Second)
	r.balanced(0)
}

// TestStoppedBetweenClaimAndCall: a process that stands still with leases in hand
// for two leases, and then goes on, sends nothing under them.
func TestStoppedBetweenClaimAndCall(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.fill(requests)
	w := r.start("claimed:1:stop")
	expect.Eventually(t, func() error {
		return expect.Is("leased", r.count(`SELECT count(*) FROM outbox WHERE state = 'sending'`), 16)
	})
	stopped := time.Now()
	r.start("", unhurried)
	expect.Eventually(t, func() error {
		return expect.Is("created by the other", r.count(`SELECT count(*) FROM outbox WHERE state = 'created'`), requests)
	})
	<-time.After(time.Until(stopped.Add(2*lease + time.Second)))
	received := r.flex.Calls().Received
	w.signal(syscall.SIGCONT)
	expect.Eventually(t, func() error {
		return expect.Is("leases given back that were lost", r.count(`SELECT count(*) FROM outbox_attempts WHERE outcome = 'released' AND NOT applied AND worker LIKE $1`, w.name()), 16)
	})
	if n := r.flex.Calls().Received; n != received || n != requests {
		t.Errorf("%d calls, want %d", n, requests)
	}
	r.balanced(0)
}

// TestStoppedDuringCall: a process that stands still with calls in flight, and
// learns what became of them long after others have found out, overwrites nothing.
func TestStoppedDuringCall(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.fill(8)
	r.flex.Inject(flextest.Rule{Fault: flextest.CreateThenHang, Times: 8})
	const limit = 20 * time.Second // it has not given its calls up when it is stopped, however busy the machine is
	w := r.start("", "FLEX_TIMEOUT="+limit.String())
	expect.Eventually(t, func() error { return expect.Is("calls that hang", r.flex.Calls().Hanging, 8) })
	w.signal(syscall.SIGSTOP)
	stopped := time.Now()
	r.lapse(w)
	r.start("")
	expect.Eventually(t, func() error {
		return expect.Is("found by the other", r.count(`SELECT count(*) FROM outbox WHERE state = 'created' AND resolved_by = 'lookup'`), 8)
	})
	<-time.After(time.Until(stopped.Add(limit + lease - timeout + time.Second))) // by its own clock its leases are over, too
	w.signal(syscall.SIGCONT)
	expect.Eventually(t, func() error {
		return expect.Is("late outcomes", r.count(`SELECT count(*) FROM outbox_attempts WHERE outcome = 'uncertain' AND NOT applied AND worker LIKE $1`, w.name()), 8)
	})
	if n := r.count(`SELECT count(*) FROM outbox WHERE state = 'created' AND resolved_by = 'lookup' AND attempt = 1`); n != 8 {
		t.Errorf("%d as they were found, want 8: %s", n, r.states())
	}
	r.balanced(0)
}

// TestAllKilledAtOnce: three replicas die in one instant, with calls in flight.
func TestAllKilledAtOnce(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.fill(60)
	// More calls than two replicas make at once: each of the three has some, until it dies. Half of them have created.
	const half = 17
	r.flex.Inject(flextest.Rule{Fault: flextest.CreateThenHang, Times: half})
	r.flex.Inject(flextest.Rule{Fault: flextest.Hang, Times: half})
	fleet := []*replica{r.start("", unhurried), r.start("", unhurried), r.start("", unhurried)}
	expect.Eventually(t, func() error { return expect.Is("calls that hang", r.flex.Calls().Hanging, 2*half) })
	for _, w := range fleet {
		w.signal(syscall.SIGKILL)
	}
	for _, w := range fleet {
		<-w.done
		r.lapse(w)
	}
	r.start("", unhurried)
	r.balanced(0)
}
