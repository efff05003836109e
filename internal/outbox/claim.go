package outbox

import (
	"context"
	"errors"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"

	"flexworker/internal/crash"
	"flexworker/internal/database"
	"flexworker/internal/outbox/attempt"
	"flexworker/internal/outbox/gate"
	"flexworker/internal/outbox/request"
)

// A claimed batch.
type claimed struct {
	leases []attempt.Lease
	// gate is why there are no more of them, as far as the gate is the reason.
	gate gate.State
	// rest is how long it makes sense to wait for more.
	rest time.Duration
	// drained: nothing that is due was left.
	drained bool
	// held: nothing was leased although something is due, since another session holds its row. That
	// may be another replica's claim, or a person in psql.
	held bool
}

// claim: pending -> sending. It leases at most so many requests that are due as there are permits, as
// many as the gate lets pass, and none of the tenants to avoid. When it returns, the intent to send is committed.
// After an error it returns no leases; a lease that is committed all the same is in doubt.
func (s *Store) claim(ctx context.Context, permits int, avoid ...string) (claimed, error) {
	token := s.leaseToken()
	c, err := s.claimAs(ctx, token, permits, avoid)
	if err != nil {
		s.markInDoubt(token, err)
		return claimed{}, database.Wrap("claim", err)
	}
	s.claimStall.GoesOn(time.Now())
	return c, nil
}

func (s *Store) claimAs(ctx context.Context, token string, permits int, avoid []string) (claimed, error) {
	ctx, cancel := database.Bounded(ctx)
	defer cancel()
	before := time.Now()
	half, odd := s.share.split()
	crash.At("claiming")
	p, leases, err := s.lease(ctx, token, permits, half, odd, before, avoid)
	if errors.Is(err, errNoGate) { // or its rate changed while this waited for it
		p, leases, err = s.lease(ctx, token, permits, half, odd, before, avoid)
	}
	crash.At("claimed")
	if err != nil {
		return claimed{}, err
	}
	c := claimed{leases: leases}
	if c.gate, c.rest = p.State(); c.gate != gate.Open {
		return c, nil
	}
	retried := 0
	for i := range leases {
		if leases[i].Attempt > 1 {
			retried++
		}
	}
	s.share.again.Store(retried > 0)
	switch {
	case len(leases) == p.N:
		if p.N < permits {
			p.Tokens -= float64(p.N)
			c.gate, c.rest = gate.Limited, p.UntilNext()
		}
	case half && len(leases)-retried == (p.N+odd)/2: // as in the statement
		// There were fewer to try again than their share; new ones may have it.
	default:
		c.drained = true
		next, err := s.untilDue(ctx)
		if err != nil { // the leases stand all the same
			next = idlePoll
		}
		c.rest, c.held = max(next, busyPoll), next <= 0 && len(leases) == 0
	}
	return c, nil
}

// share parts the permits of a claim between new requests and those tried again.
type share struct {
	again atomic.Bool   // the latest claim found some to try again
	asked atomic.Uint32 // how often split was called
}

// split says whether each kind gets half, and then whose is an odd permit: the new
// ones' when odd is 1. Where the latest claim found none to try again they get
// what new ones leave, and now and then their half, so that they are noticed
// behind any number of new ones.
func (s *share) split() (half bool, odd int) {
	n := s.asked.Add(1)
	return s.again.Load() || n%8 == 0, int(n % 2)
}

// lease takes due requests. Of those that are tried again it takes no more than
// half where half is set: a backlog of retries, however old, never starves what
// has just come. Of each kind the higher priority goes first and then the longer
// due. The CTEs are materialized, or a nested loop may lock far more rows (1,330
// for a limit of 10 were seen). One index probe a priority, so that requests not
// yet due are never read. Without a row of granted nothing is leased: LIMIT NULL
// would be no limit. What is left until expires_at is cut at a year: beyond 292 of
// them pgx makes a time.Duration of it that is in the past, and says nothing. The time
// that lookups are made for begins with the earliest attempt that is undecided; where
// those carried their keys under different attributes, no search finds both, and finding
// nothing proves nothing.
func (s *Store) lease(ctx context.Context, token string, permits int, half bool, odd int, before time.Time, avoid []string) (p gate.Tokens, leases []attempt.Lease, err error) {
	sql, args := claimSQL, []any{permits, gate.BurstTime.Seconds(), half, odd, token, s.leaseFor, s.Lookups.Attribute}
	if avoid != nil {
		sql, args = chooseSQL, append(args, avoid)
	}
	conn, err := database.Acquire(ctx, s.pool)
	if err != nil {
		return p, nil, err
	}
	defer conn.Release()
	rows, err := conn.Query(ctx, sql, args...)
	if err != nil {
		return p, nil, err
	}
	gates := 0
	l, left := attempt.Lease{}, (*time.Duration)(nil)
	_, err = pgx.ForEachRow(rows, append(p.Targets(), &l.ID, &l.RequestID, &l.Source, (*[]byte)(&l.Request), &l.LookupKey,
		&l.Attempt, &l.Uncounted, &l.Undecided, &l.ReceivedAt, &l.Traceparent, &l.Tracestate,
		&l.Stream, &l.Sequence, (*[]byte)(&l.Warnings), &left), func() error {
		if gates++; l.ID == 0 {
			return nil // the gate's row alone: nothing was leased
		}
		l.Until = before.Add(s.leaseFor)
		if left != nil {
			l.Deadline = before.Add(*left)
		}
		leases = append(leases, l)
		l = attempt.Lease{}
		return nil
	})
	if err == nil && gates == 0 {
		err = errNoGate // shut
	}
	return p, leases, err
}

// The statements of lease: the ordinary one, and the one that leases nothing of the tenants
// in $8, while one call is tried.
var (
	claimSQL = leaseSQL("", dueSQL("attempt = 0"), dueSQL("attempt > 0"))
	// Only the choice reads sources and workspaces, and of few rows: one tenant's backlog may be
	// the whole table, and the gate's row is locked meanwhile. Those of others among the oldest
	// and the latest are found; between them stands what is older than what comes now.
	chooseSQL = leaseSQL(chooseAmong("looked_fresh", "attempt = 0")+chooseAmong("looked_again", "attempt > 0"),
		chosenSQL("looked_fresh", "attempt = 0"), chosenSQL("looked_again", "attempt > 0"))
)

// chooseMost is how many due rows a choice looks at from each end of an index's priority.
const chooseMost = 500

const (
	priorities = `(VALUES (9::smallint), (8), (7), (6), (5), (4), (3), (2), (1), (0)) AS p (priority)`
	isDue      = `due_at <= now() AND (expires_at IS NULL OR expires_at > now())`
)

// dueSQL is what a claim may take of new requests, or of those tried again.
func dueSQL(kind string) string {
	return `
			SELECT o.id
			  FROM ` + priorities + `
			 CROSS JOIN LATERAL (
				SELECT id FROM outbox
				 WHERE state = 'pending' AND ` + kind + ` AND priority = p.priority AND ` + isDue + `
				 ORDER BY due_at, id LIMIT coalesce((SELECT n FROM granted), 0) FOR UPDATE SKIP LOCKED) AS o`
}

// chooseAmong is a CTE of the rows that a choice looks at, with their tenants as tenantOf
// names them. Their number is bounded before any tenant is compared.
func chooseAmong(name, kind string) string {
	end := func(order string) string {
		return `
				(SELECT id, due_at, source || ' ' || coalesce(` + request.WorkspaceSQL + `, '') AS tenant FROM outbox
				  WHERE state = 'pending' AND ` + kind + ` AND priority = p.priority AND ` + isDue + `
				  ORDER BY ` + order + ` LIMIT ` + strconv.Itoa(chooseMost) + `)`
	}
	return `
		` + name + ` AS MATERIALIZED (
			SELECT p.priority, o.id, o.due_at, o.tenant
			  FROM ` + priorities + `
			 CROSS JOIN LATERAL (` + end("due_at, id") + `
				UNION` + end("due_at DESC, id DESC") + `) AS o
			 WHERE EXISTS (SELECT FROM granted WHERE n > 0)),`
}

// chosenSQL is dueSQL for a choice.
func chosenSQL(looked, kind string) string {
	return `
			SELECT o.id
			  FROM (SELECT id FROM ` + looked + ` WHERE tenant <> ALL ($8::text[]) ORDER BY priority DESC, due_at, id) AS l
			 CROSS JOIN LATERAL (
				SELECT id FROM outbox WHERE id = l.id AND state = 'pending' AND ` + kind + ` AND ` + isDue + ` FOR UPDATE SKIP LOCKED) AS o`
}

// leaseSQL is a statement of lease that takes what the queries fresh and again give.
func leaseSQL(looked, fresh, again string) string {
	return `/* claim */
		WITH` + gate.LockSQL + `,` + looked + `
		fresh AS MATERIALIZED (` + fresh + `
			 LIMIT coalesce((SELECT CASE WHEN $3 THEN (n + $4) / 2 ELSE n END FROM granted), 0)),
		again AS MATERIALIZED (` + again + `
			 LIMIT coalesce((SELECT n - (SELECT count(*) FROM fresh) FROM granted), 0)),
		due AS MATERIALIZED (SELECT id FROM fresh UNION ALL SELECT id FROM again),
		used AS (
			UPDATE outbox
			   SET state = 'sending', due_at = NULL, attempt = attempt + 1,
			       leased_by = $5, leased_until = clock_timestamp() + $6::interval,
			       attempt_began_at = CASE WHEN undecided AND attempt_began_at IS NOT NULL THEN attempt_began_at ELSE clock_timestamp() END,
			       answered = answered OR undecided AND lookup_attribute IS DISTINCT FROM CASE WHEN lookup_key IS NOT NULL THEN nullif($7, '') END,
			       lookup_attribute = CASE WHEN lookup_key IS NOT NULL THEN nullif($7, '') END
			  FROM due WHERE outbox.id = due.id
			RETURNING outbox.id, request_id, source, request, lookup_key, attempt, uncounted, undecided, received_at, traceparent, tracestate,
			          stream, stream_sequence, warnings, least(expires_at - clock_timestamp(), '8760 h') AS time_left),` + gate.SpendSQL + `
		SELECT ` + gate.TokensColumns + `, coalesce(used.id, 0), coalesce(request_id, ''), coalesce(source, ''), request, coalesce(lookup_key, ''),
		       coalesce(attempt, 0), coalesce(uncounted, 0), coalesce(undecided, false), coalesce(received_at, now()), coalesce(traceparent, ''), coalesce(tracestate, ''),
		       coalesce(stream, ''), coalesce(stream_sequence, 0), warnings, time_left
		  FROM granted LEFT JOIN used ON true`
}

// anyDue says whether a request is due, as far as that can be read without a wait: where the
// table is locked there may be some.
func (s *Store) anyDue(ctx context.Context) bool {
	ctx, cancel := database.Bounded(ctx)
	defer cancel()
	var b pgx.Batch
	b.Queue(`SELECT set_config('lock_timeout', '` + database.NoPatience + `', true)`)
	b.Queue(`
		SELECT EXISTS (SELECT FROM outbox WHERE state = 'pending' AND attempt = 0 AND priority = ANY ('{0,1,2,3,4,5,6,7,8,9}') AND ` + isDue + `)
		    OR EXISTS (SELECT FROM outbox WHERE state = 'pending' AND attempt > 0 AND priority = ANY ('{0,1,2,3,4,5,6,7,8,9}') AND ` + isDue + `)`)
	sent := s.pool.SendBatch(ctx, &b)
	defer func() { _ = sent.Close() }() // it was a read
	due := true
	if _, err := sent.Exec(); err != nil {
		return true
	}
	if err := sent.QueryRow().Scan(&due); err != nil {
		return true
	}
	return due
}

var errNoGate = errors.New("the gate cannot be read: outbox_gate has lost its row")

// untilDue is the time until the next pending request is due; longestRest when
// there is none or it is later than that. Of one that is due already it is not positive.
func (s *Store) untilDue(ctx context.Context) (time.Duration, error) {
	var next time.Duration
	err := s.pool.QueryRow(ctx, `
		SELECT least(min(o.due_at) - clock_timestamp(), '8760 h')
		  FROM (VALUES (9::smallint), (8), (7), (6), (5), (4), (3), (2), (1), (0)) AS p (priority)
		 CROSS JOIN LATERAL (
			(SELECT due_at FROM outbox
			  WHERE state = 'pending' AND attempt = 0 AND priority = p.priority AND (expires_at IS NULL OR expires_at > now())
			  ORDER BY due_at LIMIT 1)
			UNION ALL
			(SELECT due_at FROM outbox
			  WHERE state = 'pending' AND attempt > 0 AND priority = p.priority AND (expires_at IS NULL OR expires_at > now())
			  ORDER BY due_at LIMIT 1)) AS o
		HAVING min(o.due_at) IS NOT NULL`).Scan(&next)
	if errors.Is(err, pgx.ErrNoRows) {
		return longestRest, nil
	}
	return min(next, longestRest), err
}
