package outbox

import (
	"context"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"flexworker/internal/flex"
	"flexworker/internal/outbox/attempt"
	"flexworker/internal/outbox/lookup"
	"flexworker/internal/outbox/operator"
	"flexworker/internal/outbox/request"
	"flexworker/internal/outbox/results"
)

// The net: random histories are played on the simulation's tables and on Postgres, by the real
// statements, and after every step the rows of both are the same. The simulation is worth what
// its tables are worth: here they can fail for the SQL, and the SQL for them.
//
// A history is a row of statements by three replicas and a person. What one of them was ever told
// (a lease, a lookup, an answer to publish) it may come back with much later, after it was stopped; the
// answer to a statement may be lost, and then nobody has what it gave. A statement that did not commit
// is one that is not played.
//
//	go test ./internal/outbox -run TestHistoriesOnPostgres -net.seed=N    one history, told step by step
//	make net MINUTES=10
var (
	netSeedFlag = flag.Uint64("net.seed", 0, "play only the history with this seed and tell it step by step")
	netForFlag  = flag.Duration("net.for", 0, "play histories for so long")
)

const (
	netHistories = 40
	netLength    = 60 // steps of a history
	netRetention = 2 * time.Hour
	// netStep is the longest that a step may take, by the clock of Postgres, for its history to go on. Within it
	// nothing can have become due on one side alone: all spans are whole seconds, and steps begin a millisecond apart.
	netStep = time.Second - 2*netLength*time.Millisecond
)

// twins are one history on both sides.
type twins struct {
	sim    *sim
	tables *netTables
	r      *rand.Rand
	policy request.Policy
	told   []string // the steps

	messages []netMessage
	first    map[int]int // which variant of a request has a row
	signed   []netLease  // every statement that leased
	leases   []netLease
	records  []netRecord
	lookups  []netLookup
	looks    []netSetup
	answers  []simAnswer
	sids     int
}

type netMessage struct {
	simMessage
	variant int
}

// netLease is a lease that was told to a replica.
type netLease struct {
	by, token int
	lease     Lease // whose ID is the table's
	row       int
}

type netRecord struct {
	by int
	r  record // whose lease's ID is the table's
	netLease
}

// netLookup is one question of a batch that was told to a replica.
type netLookup struct {
	by          int
	input, real lookup.Input // whose ID is the simulation's, and the table's
	settle      time.Duration
	theirs      bool
}

// TestHistoriesOnPostgres plays histories, others in each run. A failure names its seed.
func TestHistoriesOnPostgres(t *testing.T) {
	t.Parallel()
	if *netSeedFlag != 0 {
		n := newNet(t)
		why, _ := n.history(t.Context(), *netSeedFlag)
		t.Log(strings.Join(n.told, "\n"))
		if why != "" {
			t.Errorf("seed %d: %s", *netSeedFlag, why)
		}
		return
	}
	count := netHistories
	if testing.Short() {
		count /= 4
	}
	seed, begun := rand.Uint64N(1<<40)+1, time.Now()
	var mu sync.Mutex
	var players sync.WaitGroup
	played, steps, slow, failed := 0, 0, 0, false
	for range 2 {
		n := newNet(t)
		players.Go(func() {
			for {
				mu.Lock()
				mine := seed + uint64(played)
				if failed || played >= count && time.Since(begun) >= *netForFlag {
					mu.Unlock()
					return
				}
				played++
				mu.Unlock()
				why, done := n.history(t.Context(), mine)
				mu.Lock()
				steps += len(n.told)
				if !done {
					slow++
				}
				if why != "" {
					failed = true
					t.Errorf("seed %d: %s\nagain: go test ./internal/outbox -run TestHistoriesOnPostgres -net.seed=%d\n%s", mine, why, mine, strings.Join(n.told, "\n"))
				}
				mu.Unlock()
			}
		})
	}
	players.Wait()
	t.Logf("%d histories from seed %d, %d steps, %d cut short by a slow machine, in %v", played, seed, steps, slow, time.Since(begun).Round(time.Millisecond))
}

func newNet(t testing.TB) *twins {
	n := &twins{sim: &sim{limit: 16 * time.Second, unequal: true}}
	n.tables = newNetTables(t, n.sim)
	return n
}

// history plays one history. It returns what was wrong, and whether it was played to its end.
func (n *twins) history(ctx context.Context, seed uint64) (why string, done bool) {
	*n = twins{sim: &sim{limit: n.sim.limit, unequal: true, retention: netRetention, now: 1000 * time.Hour, gate: simGate{never, never, never}, confirmation: simConfirmation{readAt: never, offSince: never}}, tables: n.tables,
		r: rand.New(rand.NewPCG(seed, 23)), first: map[int]int{}}
	n.policy = request.Policy{MinDelay: 4 * time.Second, MaxDelay: time.Minute, MaxAttempts: 1 + n.r.IntN(3), Settle: []time.Duration{10 * time.Second, time.Minute}[n.r.IntN(2)],
		Undecided: []request.Undecided{request.Hold, request.Fail, request.Retry}[n.r.IntN(3)]}
	n.sim.policy = n.policy
	if err := n.tables.empty(ctx, seed); err != nil {
		return err.Error(), false
	}
	for range netLength {
		n.sim.now += time.Millisecond
		if n.r.IntN(2) == 0 {
			n.sim.now += netWaits[n.r.IntN(len(netWaits))]
		}
		n.say("after %v", n.sim.now-1000*time.Hour)
		if err := n.tables.pass(ctx, n.sim); err != nil {
			return "the times: " + err.Error(), false
		}
		lookupAt, readAt := n.sim.gate.lookupAt, n.sim.confirmation.readAt
		wrong, err := n.step(ctx)
		if err != nil {
			return err.Error(), false
		}
		p, err := n.tables.read(ctx)
		if err != nil {
			return err.Error(), false
		}
		took := p.at.Sub(n.tables.at)
		if took >= netStep || lookupAt > n.sim.now && lookupAt <= n.sim.now+took || readAt > n.sim.now && readAt <= n.sim.now+took {
			return "", false
		}
		if wrong == "" {
			wrong = n.compare(p, took)
		}
		if wrong != "" {
			n.say("%s", wrong)
			return wrong, true
		}
		n.tables.at = p.at
	}
	return "", true
}

// Spans are whole seconds: see netStep.
var netWaits = []time.Duration{time.Second, time.Second, time.Second, 3 * time.Second, 3 * time.Second, 8 * time.Second, 8 * time.Second, 21 * time.Second, 21 * time.Second,
	62 * time.Second, 62 * time.Second, 6 * time.Minute, 6 * time.Minute, time.Hour}

func (n *twins) say(format string, args ...any) {
	n.told = append(n.told, fmt.Sprintf(format, args...))
}

// also adds to what was said of this step.
func (n *twins) also(format string, args ...any) {
	n.told[len(n.told)-1] += ": " + fmt.Sprintf(format, args...)
}

// step plays one statement on both sides. It returns how their answers differ.
func (n *twins) step(ctx context.Context) (string, error) {
	steps := []struct {
		weight int
		play   func(context.Context, int) (string, error)
	}{
		{16, n.add}, {14, n.claim}, {18, n.record}, {3, n.recordAgain}, {5, n.reclaim}, {5, n.lapse}, {4, n.expire}, {11, n.take}, {12, n.resolve},
		{8, n.publish}, {9, n.mark}, {12, n.act}, {4, n.gate}, {1, n.pauseLookups}, {2, n.recheck}, {3, n.prune}, {2, n.setBack},
		{9, n.lookNext}, {12, n.keepLook}, {3, n.confirmation},
	}
	sum := 0
	for _, s := range steps {
		sum += s.weight
	}
	dice := n.r.IntN(sum)
	for _, s := range steps {
		if dice -= s.weight; dice < 0 {
			return s.play(ctx, 1+n.r.IntN(netReplicas))
		}
	}
	return "", nil
}

// differ says what both sides answered where it is not the same.
func differ[T comparable](sim, real T) string {
	if sim != real {
		return fmt.Sprintf("the simulation answers %v, Postgres %v", sim, real)
	}
	return ""
}

func (n *twins) lost() bool { return n.r.IntN(6) == 0 }

// any is one of those there are, more often one of the latest.
func pick[T any](r *rand.Rand, all []T) (one T, ok bool) {
	if len(all) == 0 {
		return one, false
	}
	if r.IntN(3) > 0 {
		all = all[max(0, len(all)-3):]
	}
	return all[r.IntN(len(all))], true
}

func (n *twins) add(ctx context.Context, by int) (string, error) {
	var m netMessage
	if again, ok := pick(n.r, n.messages); ok && n.r.IntN(4) == 0 {
		m = again // it is delivered again
	} else {
		m = netMessage{simMessage{sequence: len(n.messages) + 1, request: n.r.IntN(simRequests), expiresAt: never, streamAt: n.sim.now - time.Duration(n.r.IntN(3))*time.Minute,
			priority: []int{0, 0, 5}[n.r.IntN(3)], noTask: n.r.IntN(6) == 0, faults: n.r.IntN(10) == 0}, 0}
		if n.r.IntN(12) == 0 {
			m.streamAt = n.sim.now - netRetention
		}
		if n.r.IntN(3) == 0 {
			m.expiresAt = n.sim.now + time.Duration(n.r.IntN(900))*time.Second
		}
		if n.r.IntN(8) == 0 {
			m.notBefore = n.sim.now + time.Duration(n.r.IntN(90)-20)*time.Second
		}
		if n.r.IntN(4) == 0 {
			m.variant = 1
		}
		n.messages = append(n.messages, m)
	}
	if n.sim.row(m.request) != nil {
		m.other = m.variant != n.first[m.request]
	}
	permits, simBy, token := n.r.IntN(2), 0, n.sim.sign()
	if permits > 0 {
		simBy = by
	}
	n.also("w%d adds message %d of %d, %+v, permits %d", by, m.sequence, m.request, m, permits)
	added, leases, err := n.tables.insert(ctx, n.sim.now, &m.simMessage, m.variant, by, token, permits)
	if err != nil {
		return "", err
	}
	fresh, leased := n.sim.insert(&m.simMessage, simBy, token)
	want := Accepted
	switch {
	case !fresh:
		want = n.sim.repeat(&m.simMessage)
	case m.faults:
		want = Rejected
	}
	if fresh {
		n.first[m.request] = m.variant
	}
	n.signed = append(n.signed, netLease{by: by, token: token})
	if leased != nil && len(leases) == 1 && !n.lost() {
		n.leases = append(n.leases, netLease{by, token, leases[0], m.request})
	}
	n.also("%v", added)
	return differ(fmt.Sprint(want, leased != nil), fmt.Sprint(added, len(leases) == 1)), nil
}

func (n *twins) claim(ctx context.Context, by int) (string, error) {
	permits, half, odd, token := 1+n.r.IntN(3), n.r.IntN(3) == 0, n.r.IntN(2), n.sim.sign()
	n.also("w%d claims %d, half %t, odd %d, token %d", by, permits, half, odd, token)
	leases, state, err := n.tables.claim(ctx, by, token, permits, half, odd)
	if err != nil {
		return "", err
	}
	rows, want := n.sim.claim(by, token, permits, half, odd)
	expected, real := []string{}, []string{}
	lost := n.lost()
	n.signed = append(n.signed, netLease{by: by, token: token})
	for _, r := range rows {
		expected = append(expected, fmt.Sprint(r.id, r.attempt, r.uncounted, r.undecided))
	}
	for _, l := range leases {
		row := n.tables.of[l.ID]
		real = append(real, fmt.Sprint(row, l.Attempt, l.Uncounted, l.Undecided))
		if !lost {
			n.leases = append(n.leases, netLease{by, token, l, row})
		}
	}
	slices.Sort(expected)
	slices.Sort(real)
	n.also("%v, lost %t", real, lost)
	return differ(fmt.Sprint(want, expected), fmt.Sprint(state, real)), nil
}

// sid is an interaction, now and then one that a request has.
func (n *twins) sid() string {
	if n.r.IntN(3) == 0 {
		for _, row := range n.sim.rows {
			if row.sid != "" {
				return row.sid
			}
		}
	}
	n.sids++
	return fmt.Sprintf("KD%032x", n.sids)
}

// outcome is one that Flex may give; good for any lease.
func (n *twins) outcome() flex.Outcome {
	switch n.r.IntN(9) {
	case 0, 1:
		return flex.Outcome{ErrorKind: "timeout"}
	case 2:
		return flex.Outcome{Answered: true, HTTPStatus: 201, ErrorKind: "no_sid"}
	case 3:
		return flex.Outcome{Kind: flex.Refused, Unreached: true, ErrorKind: "dial"}
	case 4:
		return flex.Outcome{Kind: flex.Blocked, HTTPStatus: 403, ErrorKind: "http_403"}
	case 5:
		return flex.Outcome{Kind: flex.Refused, Limited: true, HTTPStatus: 429, RetryAfter: time.Duration(n.r.IntN(30)) * time.Second, ErrorKind: "http_429"}
	case 6:
		return flex.Outcome{Kind: flex.Rejected, HTTPStatus: 400, ErrorKind: "http_400"}
	default:
		return flex.Outcome{Kind: flex.Created, HTTPStatus: 201, InteractionSID: n.sid()}
	}
}

func (n *twins) record(ctx context.Context, _ int) (string, error) {
	l, ok := pick(n.r, n.leases)
	if !ok {
		return "", nil
	}
	r := attempt.Unsent(l.lease)
	if n.r.IntN(6) > 0 {
		r = attempt.Decide(n.policy, l.lease, n.outcome(), n.r.Float64())
	}
	r.Move.Delay, r.Pause = r.Move.Delay.Truncate(time.Second), r.Pause.Truncate(time.Second)
	n.records = append(n.records, netRecord{l.by, r, l})
	return n.recorded(ctx, n.records[len(n.records)-1], false)
}

// recordAgain is what follows where the answer to a record was lost, whether it had committed or not.
func (n *twins) recordAgain(ctx context.Context, _ int) (string, error) {
	r, ok := pick(n.r, n.records)
	if !ok {
		return "", nil
	}
	return n.recorded(ctx, r, true)
}

func (n *twins) recorded(ctx context.Context, r netRecord, again bool) (string, error) {
	n.also("w%d records %d, attempt %d, again %t: %s, answered %t -> %+v", r.by, r.row, r.lease.Attempt, again, r.r.Outcome, r.r.Told.Answered, r.r.Move)
	applied, owner, err := n.tables.record(ctx, r.by, r.r, again)
	if err != nil {
		return "", err
	}
	mine := r.r
	mine.Lease.ID = int64(r.row)
	if again {
		if made := slices.IndexFunc(n.sim.histories, func(h simHistory) bool {
			return h.row == r.row && !h.lookup && h.number == r.lease.Attempt && h.by == r.by && h.token == 0 && h.outcome == r.r.Outcome
		}); made >= 0 {
			return differ(n.sim.histories[made].applied, applied), nil
		}
	}
	want, _, wantOwner := n.sim.record(r.by, mine)
	if wantOwner == nil {
		return differ(fmt.Sprint(want, ""), fmt.Sprint(applied, owner)), nil
	}
	if wrong := differ(n.tables.requestID(wantOwner.id), owner); wrong != "" {
		return wrong, nil
	}
	r.r = disowned(n.policy, r.r, owner, n.r.Float64())
	n.records = append(n.records, r)
	n.also("it is the interaction of %d", wantOwner.id)
	return n.recorded(ctx, r, false)
}

func (n *twins) reclaim(ctx context.Context, by int) (string, error) {
	l, ok := pick(n.r, n.signed)
	if !ok {
		return "", nil
	}
	n.also("w%d reclaims w%d/%d", by, l.by, l.token)
	moved, err := n.tables.reclaim(ctx, by, l.by, l.token)
	if err != nil {
		return "", err
	}
	return differ(n.sim.reclaim(by, l.token), moved), nil
}

func (n *twins) lapse(ctx context.Context, by int) (string, error) {
	n.also("lapse")
	moved, err := n.tables.lapse(ctx, by)
	if err != nil {
		return "", err
	}
	return differ(n.sim.lapse(), moved), nil
}

func (n *twins) expire(ctx context.Context, by int) (string, error) {
	n.also("expire")
	moved, err := n.tables.expire(ctx, by)
	if err != nil {
		return "", err
	}
	return differ(n.sim.expire(), moved), nil
}

func (n *twins) take(ctx context.Context, by int) (string, error) {
	most, settle := []int{1, flex.MaxKeys - 1}[n.r.IntN(2)], n.policy.Settle
	q, err := n.tables.take(ctx, by, most, settle)
	if err != nil {
		return "", err
	}
	want := n.sim.takeLookups(&lookup.CanaryKeys{}, most, settle, n.sim.attributeOf(by))
	expected, real := []string{}, []string{}
	said := func(u lookup.Input, row int) string {
		return fmt.Sprint(row, " attempt ", u.Attempt, " uncounted ", u.Uncounted, " lookups ", u.Lookups, " answered ", u.Answered, " waits ", u.Waits, " ends as ", u.EndsAs, " askable ", u.LookupKey != "")
	}
	lost, counts := n.lost(), false
	for _, u := range want.Asked {
		expected = append(expected, said(u, int(u.ID)))
		counts = counts || u.Age >= q.Settle
	}
	for _, u := range q.Asked {
		row := n.tables.of[u.ID]
		real = append(real, said(u, row))
		if i := slices.IndexFunc(want.Asked, func(v lookup.Input) bool { return int(v.ID) == row }); i >= 0 && !lost {
			n.lookups = append(n.lookups, netLookup{by, want.Asked[i], u, settle, u.PolicyInput().Theirs})
		}
	}
	slices.Sort(expected)
	slices.Sort(real)
	n.also("w%d takes %d lookups: %s %v, lost %t", by, most, q.Attribute, real, lost)
	if wrong := differ(fmt.Sprint(want.Workspace != "", want.Attribute, expected), fmt.Sprint(q.Workspace != "", q.Attribute, real)); wrong != "" || len(real) == 0 || !counts {
		return wrong, nil
	}
	return differ(fmt.Sprint("later ", want.Later.Key != "", want.Later.Ripe), fmt.Sprint("later ", q.Later.Key != "", q.Later.Ripe)), nil
}

func (n *twins) resolve(ctx context.Context, _ int) (string, error) {
	l, ok := pick(n.r, n.lookups)
	if !ok {
		return "", nil
	}
	f := request.Finding{}
	switch n.r.IntN(6) {
	case 0:
		f = request.Finding{Kind: request.Found, Outcome: flex.Outcome{Kind: flex.Created, InteractionSID: n.sid()}}
	case 1, 2, 3:
		f.Kind = request.Absent
	case 4:
		f.Hopeless = true
	}
	d := l.input.PolicyInput()
	d.Theirs = l.theirs
	p := n.policy
	p.Settle = l.settle
	m := p.AfterLookup(d, f, n.r.Float64())
	m.Delay = m.Delay.Truncate(time.Second)
	n.also("w%d resolves %d, attempt %d, lookup %d: %s -> %+v", l.by, l.input.ID, l.input.Attempt, l.input.Lookups, f.Kind, m)
	applied, err := n.tables.resolve(ctx, l.by, l.real, f, m)
	if err != nil {
		return "", err
	}
	return differ(n.sim.resolve(l.by, l.input, f, m) != nil, applied), nil
}

func (n *twins) publish(ctx context.Context, by int) (string, error) {
	owed, err := n.tables.unpublished(ctx, by)
	if err != nil {
		return "", err
	}
	answers := n.sim.unpublished()
	want := []string{}
	for _, a := range answers {
		row, sequence := n.sim.row(a.row), a.number
		outcome := string(a.state)
		switch a.kind {
		case results.Malformation:
			outcome = "conflict"
		case results.Repetition:
		default:
			sequence = row.sequence
		}
		want = append(want, fmt.Sprintf("%d of %s, %s, message %d", a.kind, n.tables.requestID(a.row), outcome, sequence))
	}
	slices.Sort(want)
	slices.Sort(owed)
	n.also("w%d owes %v", by, owed)
	if !n.lost() {
		n.answers = append(n.answers, answers...)
	}
	for i := range n.sim.rows {
		if r := &n.sim.rows[i]; r.settledAt != never || r.state == request.Uncertain && r.forPerson != never {
			n.answers = append(n.answers, answerOf(r)) // as whoever settled it would publish it at once
		}
	}
	return differ(strings.Join(want, "; "), strings.Join(owed, "; ")), nil
}

func (n *twins) mark(ctx context.Context, by int) (string, error) {
	a, ok := pick(n.r, n.answers)
	if !ok {
		return "", nil
	}
	n.also("w%d marks %+v", by, a)
	if err := n.tables.mark(ctx, by, []simAnswer{a}); err != nil {
		return "", err
	}
	n.sim.markPublished([]simAnswer{a}, confirms(by))
	return "", nil
}

func (n *twins) act(ctx context.Context, _ int) (string, error) {
	if len(n.sim.rows) == 0 {
		return "", nil
	}
	row := &n.sim.rows[n.r.IntN(len(n.sim.rows))]
	var attempt *int
	speaks := true
	if n.r.IntN(3) == 0 {
		seen := max(0, row.attempt-n.r.IntN(2))
		attempt, speaks = &seen, seen == row.attempt
	}
	change, do := operator.ToCancel(), n.sim.cancel
	switch n.r.IntN(10) {
	case 0, 1, 2:
		unverified := n.r.IntN(2) == 0
		change, do = operator.ToRetry(unverified), func(r *simRow) bool { return n.sim.retry(r, unverified) }
	case 3:
		change, do = operator.ToLookUp(), n.sim.lookUpNow
	case 4:
		change, do = operator.ToRepublish(), n.sim.republish
	case 5, 6, 7:
		sid := ""
		do = n.sim.resolveAbsent
		if n.r.IntN(3) == 0 {
			sid = n.sid()
			do = func(r *simRow) bool { return n.sim.resolveCreated(r, sid) }
		}
		of := row.attempt
		if attempt != nil {
			of = *attempt
		}
		n.also("a person resolves attempt %d of %d as %q", of, row.id, sid)
		done, err := n.tables.resolveByHand(ctx, row.id, of, sid)
		if err != nil {
			return "", err
		}
		return differ(speaks && do(row), done), nil
	}
	n.also("%s of %d, of the attempt seen %t", change.Name, row.id, speaks)
	done, err := n.tables.do(ctx, change, row.id, attempt)
	if err != nil {
		return "", err
	}
	return differ(speaks && do(row), done), nil
}

func (n *twins) gate(ctx context.Context, _ int) (string, error) {
	if n.sim.gate.heldSince == never && n.r.IntN(3) > 0 {
		n.also("hold")
		n.sim.hold()
		return "", n.tables.hold(ctx)
	}
	n.also("release")
	n.sim.release()
	return "", n.tables.release(ctx)
}

func (n *twins) pauseLookups(ctx context.Context, by int) (string, error) {
	d := time.Duration(n.r.IntN(90)) * time.Second
	n.also("TaskRouter is not asked for %v", d)
	n.sim.gate.lookupAt = max(n.sim.gate.lookupAt, n.sim.now+d)
	return "", n.tables.pauseLookups(ctx, by, d)
}

func (n *twins) recheck(ctx context.Context, _ int) (string, error) {
	since, attribute := n.sim.now-time.Duration(n.r.IntN(60))*time.Minute, []string{"a", "b"}[n.r.IntN(2)]
	n.also("recheck since %v, attribute %s", since-1000*time.Hour, attribute)
	done, err := n.tables.recheck(ctx, n.tables.time(n.sim.now, since), attribute)
	if err != nil {
		return "", err
	}
	return differ(n.sim.recheck(since, attribute), done), nil
}

func (n *twins) prune(ctx context.Context, by int) (string, error) {
	n.also("prune")
	went, err := n.tables.prune(ctx, by, netRetention)
	if err != nil {
		return "", err
	}
	gone := n.sim.prune(netRetention)
	n.also("%v", gone)
	// A request that comes again has a new id: what a replica has of the old one is of no row.
	old := func(row int) bool { return slices.Contains(gone, row) }
	n.leases = slices.DeleteFunc(n.leases, func(l netLease) bool { return old(l.row) })
	n.records = slices.DeleteFunc(n.records, func(r netRecord) bool { return old(r.row) })
	n.lookups = slices.DeleteFunc(n.lookups, func(l netLookup) bool { return old(int(l.input.ID)) })
	n.looks = slices.DeleteFunc(n.looks, func(l netSetup) bool { return old(int(l.sim.ID)) })
	n.answers = slices.DeleteFunc(n.answers, func(a simAnswer) bool { return old(a.row) })
	return differ(len(gone), went), nil
}

func (n *twins) setBack(ctx context.Context, by int) (string, error) {
	n.also("the clock is looked at")
	if slices.ContainsFunc(n.sim.rows, func(r simRow) bool {
		return r.state == request.Uncertain && r.beganAt > r.uncertainSince+10*time.Second
	}) {
		return "", nil // two outcomes of one lease, which no process tells, can date an attempt before it began
	}
	changed, err := n.tables.setBack(ctx, by)
	if err != nil {
		return "", err
	}
	return differ(0, changed), nil
}

// compare says where the tables are not what the simulation has: took is how long the step took, so a
// time that it wrote is later by up to that.
func (n *twins) compare(real netPicture, took time.Duration) string {
	want := n.tables.expected(n.sim)
	want.repeats = n.tables.repeatsOf(n.sim)
	var wrong []string
	same := func(what string, want, real *time.Time) {
		switch {
		case (want == nil) != (real == nil):
			wrong = append(wrong, fmt.Sprintf("%s: the simulation has %v, Postgres %v", what, ago(want, n.tables.at), ago(real, n.tables.at)))
		case want != nil && (real.Before(*want) || real.After(want.Add(took))):
			wrong = append(wrong, fmt.Sprintf("%s: the simulation has %v, Postgres %v, within %v", what, ago(want, n.tables.at), ago(real, n.tables.at), took))
		}
	}
	if w, r := slices.Sorted(maps.Keys(want.rows)), slices.Sorted(maps.Keys(real.rows)); !slices.Equal(w, r) {
		return fmt.Sprintf("rows: the simulation has %v, Postgres %v", w, r)
	}
	for id, w := range want.rows {
		r := real.rows[id]
		if w.text != r.text {
			wrong = append(wrong, fmt.Sprintf("%s:\nthe simulation has %s\nPostgres          %s", id, w.text, r.text))
		}
		for c := range w.times {
			same(id+"."+netTimes[c], w.times[c], r.times[c])
		}
	}
	for c, column := range []string{"held_since", "paused_until", "lookup_at"} {
		same("outbox_gate."+column, want.gate[c], real.gate[c])
	}
	if !maps.Equal(want.histories, real.histories) {
		for id := range real.rows {
			if want.histories[id] != real.histories[id] {
				wrong = append(wrong, fmt.Sprintf("history of %s:\nthe simulation has %s\nPostgres          %s", id, want.histories[id], real.histories[id]))
			}
		}
		if wrong == nil {
			wrong = append(wrong, fmt.Sprintf("histories of rows that are gone: %v and %v", want.histories, real.histories))
		}
	}
	for id := range real.setups {
		if _, ok := want.setups[id]; !ok {
			wrong = append(wrong, fmt.Sprintf("Postgres has a set-up %s, and the simulation has none: %+v", id, real.setups[id]))
		}
	}
	for id, w := range want.setups {
		r := real.setups[id]
		if w.text != r.text {
			wrong = append(wrong, fmt.Sprintf("set-up of %s:\nthe simulation has %s\nPostgres          %s", id, w.text, r.text))
		}
		same(id+": created_at of its set-up", w.times[0], r.times[0])
		same(id+": due_at of its set-up", w.times[1], r.times[1])
	}
	if want.refused != real.refused {
		wrong = append(wrong, fmt.Sprintf("refused looks: the simulation has %d, Postgres %d", want.refused, real.refused))
	}
	same("outbox_confirmation.read_at", want.confirmation[0], real.confirmation[0])
	same("outbox_confirmation.off_since", want.confirmation[1], real.confirmation[1])
	if want.repeats != real.repeats {
		wrong = append(wrong, fmt.Sprintf("repeats and conflicts: the simulation has %s\nPostgres          %s", want.repeats, real.repeats))
	}
	return strings.Join(wrong, "\n")
}

func ago(t *time.Time, now time.Time) string {
	if t == nil {
		return "null"
	}
	return "now" + fmt.Sprintf(" %+v", t.Sub(now))
}
