package setup

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"flexworker/internal/batch"
	"flexworker/internal/database"
	"flexworker/internal/flex"
	"flexworker/internal/outbox/results"
	"flexworker/internal/testing/expect"
	"flexworker/internal/testing/flextest"
	"flexworker/internal/testing/pgtest"
	"flexworker/migrations"
)

var migrated = pgtest.NewTemplate(migrations.Up)

func TestMain(m *testing.M) { os.Exit(pgtest.Run(m)) }

// rig is one replica's Confirmer on tables of the test's own, and the imitation of Flex.
type rig struct {
	t         *testing.T
	pool      *pgxpool.Pool
	flex      *flextest.Server
	confirmer *Confirmer
	outgoing  *results.Outgoing
	passed    time.Time // when time last went by for the set-ups, by Postgres's clock
}

func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{t: t, pool: migrated.NewPool(t, database.ForLoops), flex: flextest.New(t)}
	r.outgoing = results.NewOutgoing(r.pool, batch.NewTurn(time.Millisecond))
	r.outgoing.FirstLook = FirstLook
	r.confirmer = r.another()
	r.passed = pgtest.One[time.Time](t, r.pool, `SELECT clock_timestamp()`)
	return r
}

// another is the Confirmer of another replica.
func (r *rig) another() *Confirmer { return r.patient(ReadLimit) }

// patient is another one, whose reads may take so long.
func (r *rig) patient(limit time.Duration) *Confirmer {
	r.t.Helper()
	client, err := flex.New(flex.Config{URL: r.flex.URL(), TaskRouterURL: r.flex.URL(), Timeout: limit, Concurrency: AtOnce,
		Credentials: func() (string, string) { return flextest.AccountSID, flextest.AuthToken }})
	if err != nil {
		r.t.Fatal(err)
	}
	return &Confirmer{Setups: &Setups{Pool: r.pool}, Flex: client, Rate: 1000, Told: r.outgoing.Words,
		Log: slog.New(slog.NewTextHandler(r.t.Output(), &slog.HandlerOptions{Level: slog.LevelError}))}
}

const asked = `{"channel":{"type":"sms","initiated_by":"api","participants":[{"address":"+15550100","proxy_address":"+15550199"}]},
	"routing":{"properties":{"workspace_sid":"WS00000000000000000000000000000002","workflow_sid":"WW00000000000000000000000000000003","attributes":{"test_id":%q}}}}`

// create has Flex create a request's interaction, and stores it as created. It is published and marked.
func (r *rig) create(name string) (id int64) {
	r.t.Helper()
	client, err := flex.New(flex.Config{URL: r.flex.URL(), TaskRouterURL: r.flex.URL(), Timeout: ReadLimit, Concurrency: 1,
		Credentials: func() (string, string) { return flextest.AccountSID, flextest.AuthToken }})
	if err != nil {
		r.t.Fatal(err)
	}
	defer client.CloseIdle()
	request := fmt.Sprintf(asked, name)
	var body struct{ Channel, Routing json.RawMessage }
	if err := json.Unmarshal([]byte(request), &body); err != nil {
		r.t.Fatal(err)
	}
	o := client.Create(r.t.Context(), flex.Interaction{Channel: body.Channel, Routing: body.Routing})
	if o.Kind != flex.Created {
		r.t.Fatalf("%+v", o)
	}
	id = pgtest.One[int64](r.t, r.pool, `
		INSERT INTO outbox (request_id, source, state, request, attempt, interaction_sid, task_sid, response, resolved_by, settled_at, stream_sequence, stream_time)
		VALUES ($1, 'crm', 'created', $2, 1, $3, $4, $5, 'response', clock_timestamp(), 1, clock_timestamp()) RETURNING id`,
		name, request, o.InteractionSID, o.TaskSID, string(o.Response))
	r.mark(id)
	return id
}

// mark is what follows the acknowledgement of the result created.
func (r *rig) mark(id int64) {
	r.t.Helper()
	if err := r.outgoing.MarkPublished(r.t.Context(), []results.Answer{{Kind: results.Final, ID: id, Number: 1, Outcome: "created"}}); err != nil {
		r.t.Fatal(err)
	}
}

// pass lets time go by for all set-ups. What the test itself has taken since time went by last does not count, or a busy machine
// would make the next look due. What was made meanwhile is as old as if it had been made just now.
func (r *rig) pass(d time.Duration) {
	r.t.Helper()
	now := pgtest.One[time.Time](r.t, r.pool, `SELECT clock_timestamp()`)
	pgtest.Exec(r.t, r.pool, `
		UPDATE outbox_setups SET created_at = created_at + took - $3::interval, due_at = due_at + took - $3::interval
		  FROM (SELECT id, greatest($2::timestamptz - greatest(created_at, $1::timestamptz), '0') AS took FROM outbox_setups) AS t WHERE t.id = outbox_setups.id`,
		r.passed, now, d)
	pgtest.Exec(r.t, r.pool, `UPDATE outbox_confirmation SET read_at = read_at + ($2::timestamptz - $1::timestamptz) - $3::interval`, r.passed, now, d)
	r.passed = now
}

// reads is how many reads of channels and participants Flex has had.
func (r *rig) reads() int { return r.flex.Calls().Channels + r.flex.Calls().Members }

// roundOf has c take what is due, and returns when it was looked at.
func (r *rig) roundOf(c *Confirmer) {
	r.t.Helper()
	looks := c.newLooks()
	_, err := c.round(r.t.Context(), r.t.Context(), looks)
	looks.all.Wait()
	if err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) round() {
	r.t.Helper()
	r.roundOf(r.confirmer)
}

// says checks the words and the looks of all requests, in the order of their ids.
func (r *rig) says(want string) {
	r.t.Helper()
	got := pgtest.One[string](r.t, r.pool, `SELECT coalesce(string_agg(coalesce(word, 'waits') || ' ' || checks, ', ' ORDER BY id), '') FROM outbox_setups`)
	if got != want {
		r.t.Errorf("%s, want %s", got, want)
	}
}

// TestWords: each fate leads to its word, at the look that can tell.
func TestWords(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	for _, fate := range []flextest.Fate{"", flextest.ChannelFailed, flextest.NoCustomer, flextest.TaskCanceled, flextest.Stuck} {
		r.create("is " + string(fate))
		r.flex.Decide("is "+string(fate), fate)
	}
	r.pass(0)
	r.round() // nothing is due
	r.says("waits 0, waits 0, waits 0, waits 0, waits 0")
	if n := r.reads(); n != 0 {
		t.Errorf("%d reads before the first look is due", n)
	}
	r.pass(FirstLook)
	r.round()
	r.says("confirmed 1, setup_failed 1, waits 1, setup_failed 1, waits 1")
	r.pass(6 * time.Second) // 8 s after the creation: between the second look and the third
	r.round()
	r.says("confirmed 1, setup_failed 1, waits 2, setup_failed 1, waits 2")
	r.pass(55 * time.Second)
	r.round()
	r.says("confirmed 1, setup_failed 1, setup_failed 3, setup_failed 1, unconfirmed 3")
	kinds := pgtest.One[string](t, r.pool, `SELECT string_agg(error_kind || ' ' || coalesce(error_code::text, '-') || ' ' || coalesce(task_reason, '-'), ', ' ORDER BY id) FROM outbox_setups`)
	if want := "channel_failed 50416 -, no_customer - -, task_canceled - Task canceled on workflow timeout"; kinds != want {
		t.Errorf("%s, want %s", kinds, want)
	}
	if got := fmt.Sprint(r.confirmer.Counters[0].Load(), r.confirmer.Counters[1].Load(), r.confirmer.Counters[2].Load()); got != "1 3 1" {
		t.Errorf("counted %s", got)
	}
}

// TestSetUpLater: a channel that takes its time is confirmed at the first look after it is set up.
func TestSetUpLater(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.flex.Set(flextest.Settings{SetupAfter: 10 * time.Minute})
	r.create("slow")
	r.pass(FirstLook)
	r.round()
	r.says("waits 1")
	r.flex.Age(10 * time.Minute)
	r.pass(6 * time.Second)
	r.round()
	r.says("confirmed 2")
}

// TestMarkedOnce: a result that is published once more has the set-up that it had; one that is not created has none, and
// without CONFIRM nobody has.
func TestMarkedOnce(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	id := r.create("again")
	r.pass(FirstLook)
	r.round()
	pgtest.Exec(t, r.pool, `UPDATE outbox SET published_at = NULL`) // worker republish
	r.mark(id)
	r.says("confirmed 1")
	rejected := pgtest.One[int64](t, r.pool, `
		INSERT INTO outbox (request_id, source, state, request, error_kind, settled_at, stream_sequence, stream_time)
		VALUES ('no', 'crm', 'rejected', '{}', 'invalid', clock_timestamp(), 2, clock_timestamp()) RETURNING id`)
	r.mark(rejected)
	r.says("confirmed 1")
	r.outgoing.FirstLook = 0
	r.create("without")
	r.says("confirmed 1")
}

// TestReadFails: a look that cannot be read counts, and the last one makes it unconfirmed, also where the first came late.
func TestReadFails(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.create("late")
	r.flex.Set(flextest.Settings{SetupTrouble: flextest.Status(http.StatusServiceUnavailable)})
	r.pass(time.Hour)
	for n := range 4 {
		r.says(fmt.Sprintf("waits %d", n))
		r.round()
		r.pass(2 * between)
	}
	r.says("unconfirmed 4")
}

// TestLimited: a 429 makes all reads later, and counts only an hour after the creation.
func TestLimited(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.create("put-off")
	r.flex.Set(flextest.Settings{SetupTrouble: flextest.Status(http.StatusTooManyRequests).RetryAfter("30")})
	r.pass(FirstLook)
	r.round()
	r.round()
	r.says("waits 0")
	if n := r.reads(); n != 1 {
		t.Errorf("%d reads although Flex said 30 s", n)
	}
	if wait := pgtest.One[time.Duration](t, r.pool, `SELECT read_at - clock_timestamp() FROM outbox_confirmation`); wait < 20*time.Second || wait > 30*time.Second {
		t.Errorf("the next read is made after %v", wait)
	}
	r.pass(time.Hour)
	r.round()
	r.says("waits 1")
	r.flex.Set(flextest.Settings{})
	r.pass(time.Minute)
	r.round()
	r.says("confirmed 2")
}

// TestPausedGate: no set-up is read while Flex has put creates off.
func TestPausedGate(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.create("waits")
	r.pass(FirstLook)
	pgtest.Exec(t, r.pool, `UPDATE outbox_gate SET paused_until = clock_timestamp() + interval '1 minute', reason = '429'`)
	r.round()
	r.says("waits 0")
	pgtest.Exec(t, r.pool, `UPDATE outbox_gate SET paused_until = NULL`)
	r.round()
	r.says("confirmed 1")
}

// TestRate: the fleet reads as often as CONFIRM_RATE says, whichever replica does it.
func TestRate(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	other := r.another()
	const rate, budget = 0.03, 100 * time.Second // of the three reads of a look: the rounds are over long before that
	r.confirmer.Rate, other.Rate = rate, rate
	for i := range 3 {
		r.create(fmt.Sprint("r-", i))
	}
	r.pass(FirstLook)
	for range 5 {
		r.round()
		r.roundOf(other)
	}
	r.says("confirmed 1, waits 0, waits 0")
	wait := pgtest.One[time.Duration](t, r.pool, `SELECT read_at - clock_timestamp() FROM outbox_confirmation`)
	if wait <= 0 || wait > budget {
		t.Errorf("three reads at %v a second leave %v", rate, wait)
	}
}

// TestTwoLooksAtOnce: the answer that is stored first counts, and the other changes nothing.
func TestTwoLooksAtOnce(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.create("both")
	r.pass(FirstLook)
	first, err := r.confirmer.Setups.Take(t.Context(), 1000)
	if err != nil || len(first.Due) != 1 {
		t.Fatalf("%+v %v", first, err)
	}
	r.pass(2 * LookLimit) // its replica died, or is slow
	second, err := r.confirmer.Setups.Take(t.Context(), 1000)
	if err != nil || len(second.Due) != 1 {
		t.Fatalf("%+v %v", second, err)
	}
	if stored, err := r.confirmer.Setups.Store(t.Context(), []Finding{{Due: second.Due[0], Verdict: Verdict{Word: Confirmed}}}); err != nil || !stored[0] {
		t.Fatal(stored, err)
	}
	for range 2 { // the answer to a store may be lost, and it is made again
		if stored, err := r.confirmer.Setups.Store(t.Context(), []Finding{{Due: first.Due[0], Verdict: Verdict{Failed, "channel_failed", "why"}}}); err != nil || stored[0] {
			t.Fatal(stored, err)
		}
	}
	r.says("confirmed 1")
}

// TestClockGoesBack: what the database's clock said before it went back keeps no request waiting, and all get a word.
func TestClockGoesBack(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.create("early")
	r.flex.Decide("early", flextest.Stuck)
	r.pass(-time.Hour)
	for range mostChecks {
		r.round()
		r.pass(time.Minute)
	}
	if word := pgtest.One[*string](t, r.pool, `SELECT word FROM outbox_setups`); word == nil || *word != "unconfirmed" {
		t.Errorf("word %v", word)
	}
	if n := r.reads(); n > mostChecks {
		t.Errorf("%d reads", n)
	}
}

// TestRefusedForGood: confirmation turns itself off after several requests in a row, tells all that they are unconfirmed
// without a read, and is on again after a read that is answered.
func TestRefusedForGood(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.flex.Set(flextest.Settings{SetupTrouble: flextest.Status(http.StatusForbidden)})
	for i := range RefusedMost + 1 {
		r.create(fmt.Sprint("r-", i))
	}
	for i := range RefusedMost { // one after another, as where few requests come: none is due by itself meanwhile
		pgtest.Exec(t, r.pool, `UPDATE outbox_setups SET due_at = now() + interval '100 s'`)
		pgtest.Exec(t, r.pool, `UPDATE outbox_setups SET due_at = now() - interval '1 s' WHERE id = (SELECT min(id) FROM outbox_setups WHERE checks = 0)`)
		pgtest.Exec(t, r.pool, `UPDATE outbox_confirmation SET read_at = now()`)
		if off, _ := r.confirmer.Off(); off {
			t.Fatalf("off after %d", i)
		}
		r.round()
	}
	if off, _ := r.confirmer.Off(); !off {
		t.Fatal("still on")
	}
	if n := pgtest.One[int](t, r.pool, `SELECT count(*) FROM outbox_attention WHERE what = 'confirmation'`); n != 1 {
		t.Errorf("outbox_attention has %d rows about it", n)
	}
	reads := r.reads()
	pgtest.Exec(t, r.pool, `UPDATE outbox_setups SET due_at = now() - interval '1 s' WHERE word IS NULL`)
	r.round()
	r.says("unconfirmed 1, unconfirmed 1, unconfirmed 1, unconfirmed 1, unconfirmed 1, unconfirmed 0")
	if n := r.reads(); n != reads {
		t.Errorf("%d more reads while it is off", n-reads)
	}
	r.create("later")
	r.create("last")
	r.pass(2 * time.Hour) // the one read that tries again, which is refused
	r.round()
	r.round()
	if n := r.reads(); n != reads+1 {
		t.Errorf("%d reads to try again", n-reads)
	}
	r.flex.Set(flextest.Settings{})
	r.create("good")
	r.pass(2 * time.Hour)
	r.round()
	if off, _ := r.confirmer.Off(); off {
		t.Error("still off after an answer")
	}
	expect.Eventually(t, func() error {
		r.round()
		return expect.Is("waiting", pgtest.One[int](t, r.pool, `SELECT count(*) FROM outbox_setups WHERE word IS NULL AND due_at < now()`), 0)
	})
}

// TestWrongCredentials: what a replica's own credentials do not open turns nothing off and costs no look.
func TestWrongCredentials(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	for i := range 2 * RefusedMost {
		r.create(fmt.Sprint("c-", i))
	}
	r.flex.SetCredentials(flextest.Credential{User: "AC1", Secret: "other"})
	r.pass(FirstLook)
	r.round()
	r.says("waits 0, waits 0, waits 0, waits 0, waits 0, waits 0, waits 0, waits 0, waits 0, waits 0")
	if off, _ := r.confirmer.Off(); off {
		t.Error("it is off")
	}
}

// TestLookHangs: while Flex does not answer one look, others are made.
func TestLookHangs(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.create("hangs")
	r.flex.Set(flextest.Settings{SetupTrouble: flextest.Hang})
	r.pass(FirstLook)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	patient := r.patient(LookLimit) // so that the look hangs for as long as it may
	go func() { patient.Run(ctx); close(done) }()
	defer func() { cancel(); <-done }()
	if err := r.flex.Wait(t.Context(), func(c flextest.Calls) bool { return c.Hanging == 1 }); err != nil {
		t.Fatal(err)
	}
	r.flex.Set(flextest.Settings{})
	r.create("goes on")
	r.pass(FirstLook)
	expect.Eventually(t, func() error {
		return expect.Is("words", pgtest.One[int](t, r.pool, `SELECT count(*) FROM outbox_setups WHERE word IS NOT NULL`), 1)
	})
	if n := r.flex.Calls().Hanging; n != 1 {
		t.Errorf("%d looks hang, want 1", n)
	}
	r.says("waits 0, confirmed 1")
}

// TestRunEnds: Run ends with its context, also while Flex hangs.
func TestRunEnds(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.create("hangs")
	r.flex.Set(flextest.Settings{SetupTrouble: flextest.Hang})
	r.pass(FirstLook)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	patient := r.patient(LookLimit) // so that the look hangs until Run is to end
	go func() { patient.Run(ctx); close(done) }()
	if err := r.flex.Wait(t.Context(), func(c flextest.Calls) bool { return c.Hanging == 1 }); err != nil {
		t.Fatal(err)
	}
	cancel()
	<-done
	r.says("waits 0")
}
