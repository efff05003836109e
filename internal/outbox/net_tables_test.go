package outbox

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"flexworker/internal/database"
	"flexworker/internal/outbox/attempt"
	"flexworker/internal/outbox/gate"
	"flexworker/internal/outbox/lookup"
	"flexworker/internal/outbox/operator"
	"flexworker/internal/outbox/request"
	"flexworker/internal/outbox/results"
	"flexworker/internal/outbox/setup"
	"flexworker/internal/outbox/upkeep"
	"flexworker/internal/testing/pgtest"
)

// The real tables of the net: a statement each, by its own function, and the rows read
// again as the simulation keeps them. Who renames a function of the core renames it here.

// netTables are the tables of one history after another.
type netTables struct {
	pool   *pgxpool.Pool
	stores map[int]*Store // by replica
	prefix string         // of this history's request ids
	at     time.Time      // by the clock of Postgres, what now is in the simulation
	ids    map[int]int64  // outbox.id of the simulation's rows
	of     map[int64]int
}

const netReplicas = 3

func newNetTables(t testing.TB, s *sim) *netTables {
	pool := migrated.NewPool(t, database.ForLoops)
	x := &netTables{pool: pool, stores: map[int]*Store{}}
	for by := 1; by <= netReplicas; by++ {
		store := NewStore(x.pool, fmt.Sprintf("w%d", by), s.limitOf(by), s.attributeOf(by))
		store.Retention = netRetention
		if confirms(by) {
			store.Results.FirstLook = setup.FirstLook
		}
		x.stores[by] = store
	}
	return x
}

// empty begins a history.
func (x *netTables) empty(ctx context.Context, seed uint64) (err error) {
	x.prefix, x.ids, x.of = fmt.Sprintf("net-%d", seed), map[int]int64{}, map[int64]int{}
	_, err = x.pool.Exec(ctx, `TRUNCATE outbox, outbox_attempts, outbox_repeats, outbox_malformed, outbox_acts, outbox_replicas, outbox_gate, outbox_setups, outbox_confirmation;
		INSERT INTO outbox_gate DEFAULT VALUES;
		INSERT INTO outbox_confirmation DEFAULT VALUES`)
	if err == nil {
		err = x.pool.QueryRow(ctx, `SELECT clock_timestamp()`).Scan(&x.at)
	}
	return err
}

func (x *netTables) token(by, number int) string { return fmt.Sprintf("w%d/%d", by, number) }

// requestID is in the order of the simulation's rows only by chance.
func (x *netTables) requestID(row int) string { return fmt.Sprintf("%s-%d", x.prefix, row) }

// time is an instant of the simulation by the clock of Postgres; zero for never.
func (x *netTables) time(now, at instant) time.Time {
	if at == never {
		return time.Time{}
	}
	return x.at.Add(at - now)
}

// insert: Store.insert, and Store.added for what was known.
func (x *netTables) insert(ctx context.Context, now instant, m *simMessage, variant, by, token, permits int) (added Added, leased []Lease, err error) {
	e := event(x.requestID(m.request), uint64(m.sequence))
	e.Time, e.Priority, e.ExpiresAt = x.time(now, m.streamAt), m.priority, x.time(now, m.expiresAt)
	if m.notBefore != 0 {
		e.NotBefore = x.time(now, m.notBefore)
	}
	if variant != 0 {
		e.Request = []byte(strings.Replace(string(e.Request), `"sms"`, fmt.Sprintf(`"web%d"`, variant), 1))
	}
	if !m.noTask {
		keyed(&e)
	}
	if m.faults {
		faulty("no")(&e)
	}
	s, events := x.stores[by], []request.Event{e}
	fresh, leased, err := s.insert(ctx, database.Patience, x.token(by, token), events, permits, false)
	if err != nil {
		return 0, nil, err
	}
	answers, err := s.added(ctx, events, make([]Added, 1), fresh, leased, nil, unleased)
	return answers[0], leased, err
}

// claim: Store.lease.
func (x *netTables) claim(ctx context.Context, by, token, permits int, half bool, odd int) ([]Lease, gate.State, error) {
	tokens, leases, err := x.stores[by].lease(ctx, x.token(by, token), permits, half, odd, time.Now(), nil)
	if err != nil {
		return nil, "", err
	}
	state, _ := tokens.State()
	return leases, state, nil
}

func (x *netTables) reclaim(ctx context.Context, by, of, token int) (int, error) {
	moved, _, _, err := x.stores[by].reclaim(ctx, []string{x.token(of, token)})
	return moved, err
}

// record: Completer.Try; again: the answer to a try before was lost. owner is the request whose interaction it was.
func (x *netTables) record(ctx context.Context, by int, r record, again bool) (applied bool, owner string, err error) {
	_, err = x.stores[by].completer.Try(ctx, r, again)
	if owner := ownerOf(err); owner != "" {
		return false, owner, nil
	}
	if errors.Is(err, attempt.ErrLeaseLost) {
		return false, "", nil
	}
	return err == nil, "", err
}

func (x *netTables) lapse(ctx context.Context, by int) (int, error)  { return x.stores[by].lapse(ctx) }
func (x *netTables) expire(ctx context.Context, by int) (int, error) { return x.stores[by].expire(ctx) }

func (x *netTables) take(ctx context.Context, by, most int, settle time.Duration) (lookup.Batch, error) {
	return x.stores[by].Lookups.Take(ctx, most, settle, nil)
}

func (x *netTables) resolve(ctx context.Context, by int, u lookup.Input, f request.Finding, m request.Move) (bool, error) {
	done, err := x.stores[by].Lookups.Resolve(ctx, u, f, m, time.Millisecond)
	return done != nil, err
}

func (x *netTables) pauseLookups(ctx context.Context, by int, d time.Duration) error {
	return x.stores[by].Lookups.Pause(ctx, d)
}

// unpublished: Outgoing.Unpublished. What is returned has the number that the simulation knows it by.
func (x *netTables) unpublished(ctx context.Context, by int) (owed []string, err error) {
	answers, err := x.stores[by].Results.Unpublished(ctx, &results.Cursor{})
	for _, a := range answers {
		owed = append(owed, fmt.Sprintf("%d of %s, %s, message %d", a.Kind, pgtest.Deref(a.Body.RequestID), a.Outcome, a.Body.Sequence))
	}
	return owed, err
}

// mark: Outgoing.MarkPublished.
func (x *netTables) mark(ctx context.Context, by int, acked []simAnswer) error {
	answers := make([]results.Answer, len(acked))
	for i, a := range acked {
		answers[i] = results.Answer{Kind: a.kind, ID: x.ids[a.row], Number: a.number}
		if table := map[results.AnswerKind]string{results.Repetition: "outbox_repeats", results.Malformation: "outbox_malformed"}[a.kind]; table != "" {
			if err := x.pool.QueryRow(ctx, `SELECT coalesce(max(id), 0) FROM `+table+` WHERE stream_sequence = $1`, a.number).Scan(&answers[i].ID); err != nil {
				return err
			}
		}
	}
	return x.stores[by].Results.MarkPublished(ctx, answers)
}

// do: Store.Do of one request.
func (x *netTables) do(ctx context.Context, c operator.Change, row int, attempt *int) (bool, error) {
	all, err := x.stores[1].desk().Do(ctx, c, operator.Act{Why: "test", Attempt: attempt}, operator.Filter{RequestIDs: []string{x.requestID(row)}})
	return all.N == 1, err
}

func (x *netTables) resolveByHand(ctx context.Context, row, attempt int, sid string) (bool, error) {
	err := x.stores[1].byHand(ctx, x.requestID(row), attempt, sid)
	if errors.Is(err, operator.ErrNotUncertain) || errors.Is(err, operator.ErrOtherAttempt) || errors.Is(err, operator.ErrRefused) {
		return false, nil
	}
	return err == nil, err
}

func (x *netTables) hold(ctx context.Context) error {
	_, err := x.stores[1].desk().Hold(ctx, person)
	return err
}

func (x *netTables) release(ctx context.Context) error {
	_, err := x.stores[1].desk().Release(ctx, person)
	return err
}

func (x *netTables) recheck(ctx context.Context, since time.Time, attribute string) (bool, error) {
	_, err := x.stores[1].desk().Recheck(ctx, person, since, attribute, false)
	if errors.Is(err, operator.ErrNotHeld) || errors.Is(err, operator.ErrRefused) {
		return false, nil
	}
	return err == nil, err
}

// prune: Upkeep.PruneFrom and Upkeep.PruneMalformed.
func (x *netTables) prune(ctx context.Context, by int, retention time.Duration) (int, error) {
	n, _, err := x.stores[by].pruner(retention).PruneFrom(ctx, &upkeep.Cursor{})
	if err == nil {
		_, err = x.stores[by].pruner(retention).PruneMalformed(ctx)
	}
	return n, err
}

// setBack: Upkeep.SetBack. The clock has not gone back: it has nothing to do.
func (x *netTables) setBack(ctx context.Context, by int) (int, error) {
	n, _, err := x.stores[by].upkeep().SetBack(ctx, false)
	return n, err
}

// pass makes what is now in the tables look as old as it is in the simulation: each time of
// theirs is written anew, as far from Postgres's now as the simulation's is from its own. So
// no step has to be waited for, and how long a statement took is forgotten after it was compared.
func (x *netTables) pass(ctx context.Context, s *sim) error {
	var ids []int64
	var columns [9][]*time.Time
	for i := range s.rows {
		r := &s.rows[i]
		ids = append(ids, x.ids[r.id])
		for c, at := range r.times() {
			columns[c] = append(columns[c], database.TimeOrNull(x.time(s.now, at)))
		}
	}
	var b pgx.Batch
	if len(ids) > 0 {
		b.Queue(`UPDATE outbox o SET stream_time = u.c1, received_at = u.c2, due_at = u.c3, expires_at = u.c4, leased_until = u.c5,
			       attempt_began_at = u.c6, uncertain_since = u.c7, for_person_since = u.c8, settled_at = u.c9
			  FROM unnest($1::bigint[], $2::timestamptz[], $3::timestamptz[], $4::timestamptz[], $5::timestamptz[], $6::timestamptz[],
			       $7::timestamptz[], $8::timestamptz[], $9::timestamptz[], $10::timestamptz[]) AS u (id, c1, c2, c3, c4, c5, c6, c7, c8, c9)
			 WHERE o.id = u.id`, ids, columns[0], columns[1], columns[2], columns[3], columns[4], columns[5], columns[6], columns[7], columns[8])
	}
	for _, r := range s.repeats {
		if r.conflict {
			b.Queue(`UPDATE outbox_malformed SET stream_time = $2, published_at = $3 WHERE stream_sequence = $1`,
				r.sequence, x.time(s.now, r.streamAt), database.TimeOrNull(x.time(s.now, r.publishedAt)))
		} else {
			b.Queue(`UPDATE outbox_repeats SET stream_time = $2 WHERE stream_sequence = $1`, r.sequence, x.time(s.now, r.streamAt))
		}
	}
	x.passSetups(&b, s)
	b.Queue(`UPDATE outbox_gate SET held_since = $1, paused_until = $2, lookup_at = coalesce($3::timestamptz, '-infinity')`, database.TimeOrNull(x.time(s.now, s.gate.heldSince)),
		database.TimeOrNull(x.time(s.now, s.gate.pausedUntil)), database.TimeOrNull(x.time(s.now, s.gate.lookupAt)))
	return x.pool.SendBatch(ctx, &b).Close()
}

// times are what the table says of a row, in the order in which pass and read have them.
func (r *simRow) times() [9]instant {
	return [9]instant{r.streamAt, r.receivedAt, r.dueAt, r.expiresAt, r.leasedUntil, r.beganAt, r.uncertainSince, r.forPerson, r.settledAt}
}

var netTimes = [9]string{"stream_time", "received_at", "due_at", "expires_at", "leased_until", "attempt_began_at", "uncertain_since", "for_person_since", "settled_at"}

// A netRow is a row of either side: all but its times as one text.
type netRow struct {
	text  string
	times [9]*time.Time
}

// a netPicture is what stands in the tables.
type netPicture struct {
	rows         map[string]netRow // by request id
	gate         [3]*time.Time     // held_since, paused_until, lookup_at
	histories    map[string]string // by request id
	repeats      string
	setups       map[string]netSetupRow // by request id
	refused      int
	confirmation [2]*time.Time // read_at, off_since
	at           time.Time
}

// read reads the tables.
func (x *netTables) read(ctx context.Context) (p netPicture, err error) {
	p.rows, p.histories, p.setups = map[string]netRow{}, map[string]string{}, map[string]netSetupRow{}
	var b pgx.Batch
	b.Queue(`SELECT id, request_id, format('%s priority %s attempt %s uncounted %s leased by %s lookups %s answered %s undecided %s attribute %s ends as %s cancelled %s revision %s sid %s by %s reason %s status %s announced %s published %s sequence %s',
		       state, priority, attempt, uncounted, leased_by, lookups, answered, undecided, lookup_attribute, ends_as, cancel_requested_at IS NOT NULL, revision,
		       interaction_sid, resolved_by, error_kind, coalesce(http_status, 0), announced_at IS NOT NULL, published_at IS NOT NULL, stream_sequence),
		       stream_time, received_at, due_at, expires_at, leased_until, attempt_began_at, uncertain_since, for_person_since, settled_at
		  FROM outbox`).Query(func(rows pgx.Rows) error {
		for rows.Next() {
			var id int64
			var requestID string
			var r netRow
			if err := rows.Scan(&id, &requestID, &r.text, &r.times[0], &r.times[1], &r.times[2], &r.times[3], &r.times[4], &r.times[5], &r.times[6], &r.times[7], &r.times[8]); err != nil {
				return err
			}
			p.rows[requestID] = r
			var row int
			if _, err := fmt.Sscanf(requestID, x.prefix+"-%d", &row); err != nil {
				return err
			}
			x.ids[row], x.of[id] = id, row
		}
		return rows.Err()
	})
	b.Queue(`SELECT request_id, string_agg(format('%s %s %s %s by %s', kind, number, outcome, applied, worker), ', ' ORDER BY a.id)
		  FROM outbox_attempts a LEFT JOIN outbox o ON o.id = outbox_id GROUP BY request_id`).Query(func(rows pgx.Rows) error {
		for rows.Next() {
			var requestID *string
			var told string
			if err := rows.Scan(&requestID, &told); err != nil {
				return err
			}
			p.histories[pgtest.Deref(requestID)] = told
		}
		return rows.Err()
	})
	b.Queue(`SELECT held_since, paused_until, nullif(lookup_at, '-infinity') FROM outbox_gate`).QueryRow(func(row pgx.Row) error {
		return row.Scan(&p.gate[0], &p.gate[1], &p.gate[2])
	})
	b.Queue(`SELECT coalesce(string_agg(said, ', ' ORDER BY said COLLATE "C"), '') FROM (
		SELECT format('repeat %s of %s published %s', stream_sequence, outbox_id, published_at IS NOT NULL) AS said FROM outbox_repeats
		UNION ALL SELECT format('conflict %s published %s', stream_sequence, published_at IS NOT NULL) FROM outbox_malformed) AS all_of_them`).QueryRow(func(row pgx.Row) error {
		return row.Scan(&p.repeats)
	})
	x.readSetups(&b, &p)
	b.Queue(`SELECT clock_timestamp()`).QueryRow(func(row pgx.Row) error { return row.Scan(&p.at) })
	return p, x.pool.SendBatch(ctx, &b).Close()
}

// expected is the same of the simulation: no time is later than the step that wrote it.
func (x *netTables) expected(s *sim) (p netPicture) {
	p.rows, p.histories, p.setups, p.at = map[string]netRow{}, map[string]string{}, map[string]netSetupRow{}, x.at
	x.expectedSetups(s, &p)
	for i := range s.rows {
		r := &s.rows[i]
		leasedBy := ""
		if r.state == request.Sending {
			leasedBy = x.token(r.leasedBy, r.token)
		}
		row := netRow{text: fmt.Sprintf("%s priority %d attempt %d uncounted %d leased by %s lookups %d answered %.1s undecided %.1s attribute %s ends as %s cancelled %.1s revision %d sid %s by %s reason %s status %d announced %.1s published %.1s sequence %d",
			r.state, r.priority, r.attempt, r.uncounted, leasedBy, r.lookups, yes(r.answered), yes(r.undecided), r.attribute, r.endsAs, yes(r.cancelled), r.revision, r.sid, r.resolvedBy, r.reason,
			r.status, yes(r.announced), yes(r.published), r.sequence)}
		for c, at := range r.times() {
			row.times[c] = database.TimeOrNull(x.time(s.now, at))
		}
		p.rows[x.requestID(r.id)] = row
	}
	for _, h := range s.histories {
		kind, worker := "attempt", fmt.Sprintf("w%d", h.by)
		switch {
		case h.lookup:
			kind = "lookup"
		case h.token != 0:
			worker = x.token(h.by, h.token)
		case h.by == 0:
			worker = "unknown"
		}
		id, said := x.requestID(h.row), fmt.Sprintf("%s %d %s %.1s by %s", kind, h.number, h.outcome, yes(h.applied), worker)
		if before := p.histories[id]; before != "" {
			said = before + ", " + said
		}
		p.histories[id] = said
	}
	for i, at := range []instant{s.gate.heldSince, s.gate.pausedUntil, s.gate.lookupAt} {
		p.gate[i] = database.TimeOrNull(x.time(s.now, at))
	}
	return p
}

// repeatsOf is needed apart: it names rows by the table's ids, which are read with it.
func (x *netTables) repeatsOf(s *sim) string {
	var said []string
	for _, r := range s.repeats {
		if r.conflict {
			said = append(said, fmt.Sprintf("conflict %d published %.1s", r.sequence, yes(r.publishedAt != never)))
		} else {
			said = append(said, fmt.Sprintf("repeat %d of %d published %.1s", r.sequence, x.ids[r.row], yes(r.publishedAt != never)))
		}
	}
	slices.Sort(said)
	return strings.Join(said, ", ")
}

func yes(b bool) string { return fmt.Sprint(b) }
