package gate

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"flexworker/internal/database"
	"flexworker/internal/loop"
	"flexworker/internal/outbox/request"
	"flexworker/internal/trouble"
)

// Registry is this worker's place in the fleet: its row, what it knows of the
// others, and the rate that follows from all. Set the exported fields before Renew.
type Registry struct {
	Pool     *pgxpool.Pool
	Name     string      // this worker's, which no other process has
	WentBack loop.Signal // raised when the database's clock went back
	Version  string
	Settings Settings
	// Concurrency is FLEX_CONCURRENCY, which may differ between workers; 0: not known.
	Concurrency int
	// Standing is asked before each renewal.
	Standing func(context.Context) Standing
	Log      *slog.Logger

	known   atomic.Pointer[knownFleet] // as the latest renewal found it; nil before the first
	differ  string                     // as it was last logged
	failing trouble.Trouble
}

// knownFleet is a fleet, and when this process read it, by the process's own clock.
type knownFleet struct {
	Fleet
	at time.Time
}

// Renew writes this worker's row, reads the others' and has the fleet's rate follow.
func (r *Registry) Renew(ctx context.Context) error {
	now := r.Standing(ctx)
	r.tell(now)
	fleet, err := r.renew(ctx, now)
	if err != nil {
		return err
	}
	r.known.Store(&knownFleet{fleet, time.Now()})
	r.compare(fleet.Differences)
	theirs, ok := agreed(fleet.Replicas)
	if fleet.RateBy != nil || ok && theirs == fleet.Rate || !ok && fleet.Rate != 0 {
		return nil // as it is, until they agree; no rate at all may be one that nobody has set yet
	}
	was, rate, changed, err := r.FollowRate(ctx)
	if changed { // to the lowest, where they do not agree and no rate was ever set
		r.Log.Info("the fleet's rate follows FLEX_RATE of the living workers", "rate", rate, "was", was)
	}
	return err
}

// renewSQL returns whether this worker was last seen at a time that is not yet.
var renewSQL = `/* renew */
	WITH before AS MATERIALIZED (
		SELECT set_config('synchronous_commit', 'off', true), EXISTS (SELECT FROM outbox_replicas WHERE name = $1 AND seen_at ` + database.Ahead + `) AS ahead),
	dead AS (
		DELETE FROM outbox_replicas WHERE name IN (
			SELECT name FROM outbox_replicas
			 WHERE name <> $1 AND seen_at NOT BETWEEN clock_timestamp() - interval '1 hour' AND clock_timestamp() + interval '1 hour'
			   FOR UPDATE SKIP LOCKED))
	INSERT INTO outbox_replicas AS r (name, version, state, reason, last_created_at, account, lookup_attribute, lookup_settle,
	       flex_timeout, flex_rate, uncertain_policy, retention, confirm_rate, flex_concurrency)
	VALUES ($1, $2, $3, $4, clock_timestamp() - $5::interval, $6, $7, $8, $9, $10, $11, $12, $13, $14)
	ON CONFLICT (name) DO UPDATE
	   SET version = excluded.version, seen_at = clock_timestamp(), state = excluded.state, reason = excluded.reason,
	       state_since = CASE WHEN r.state = excluded.state THEN r.state_since ELSE clock_timestamp() END,
	       last_created_at = excluded.last_created_at, account = excluded.account, lookup_attribute = excluded.lookup_attribute,
	       lookup_settle = excluded.lookup_settle, flex_timeout = excluded.flex_timeout, flex_rate = excluded.flex_rate,
	       uncertain_policy = excluded.uncertain_policy, retention = excluded.retention, confirm_rate = excluded.confirm_rate,
	       flex_concurrency = excluded.flex_concurrency
	RETURNING (SELECT ahead FROM before)`

// renew writes this worker's row, removes the rows of those that are dead for an
// hour, and reads all: one round trip and one transaction, which waits for no disk.
// What a crash of Postgres loses of it is written again by the next look.
func (r *Registry) renew(ctx context.Context, now Standing) (Fleet, error) {
	ctx, cancel := database.Bounded(ctx)
	defer cancel()
	set := r.Settings
	var last *time.Duration
	if !now.Last.IsZero() {
		ago := time.Since(now.Last)
		last = &ago
	}
	var b pgx.Batch
	b.Queue(renewSQL, r.Name, r.Version, string(now.Word), database.OrNull(request.Text(now.Reason)), last, set.Account, set.LookupAttribute, set.LookupSettle,
		set.FlexTimeout, set.FlexRate, set.UncertainPolicy, set.Retention, set.ConfirmRate, r.Concurrency)
	b.Queue(fleetSQL)
	sent := r.Pool.SendBatch(ctx, &b)
	var wentBack bool
	if err := sent.QueryRow().Scan(&wentBack); err != nil {
		return Fleet{}, database.Wrap("renew", errors.Join(err, sent.Close()))
	}
	if wentBack {
		r.WentBack.Raise()
	}
	rows, err := sent.Query()
	if err != nil {
		return Fleet{}, database.Wrap("renew", errors.Join(err, sent.Close()))
	}
	f, err := scanFleet(rows)
	return f, database.Wrap("renew", errors.Join(err, sent.Close()))
}

// FollowRate makes FLEX_RATE of the living workers the fleet's rate, where they
// agree and no person has set another; it is recorded as an act of this worker. Where the
// rate was never set at all, as on a new database, the lowest counts while they differ. It
// returns the rate before and now, where it changed.
func (r *Registry) FollowRate(ctx context.Context) (was, rate float64, changed bool, err error) {
	ctx, cancel := database.Bounded(ctx)
	defer cancel()
	err = r.Pool.QueryRow(ctx, `
		WITH agreed AS MATERIALIZED (
			SELECT coalesce(min(nullif(flex_rate, 0)), 0) AS rate FROM outbox_replicas WHERE `+alive+`
			HAVING min(flex_rate) = max(flex_rate)
			    OR (SELECT rate = 0 FROM outbox_gate) AND NOT EXISTS (SELECT FROM outbox_acts WHERE act = 'rate')),
		was AS MATERIALIZED (SELECT rate FROM outbox_gate WHERE rate_by IS NULL FOR UPDATE),
		moved AS (
			UPDATE outbox_gate g SET rate = agreed.rate, tokens = least(g.tokens, 1 + agreed.rate * $2::double precision)
			  FROM agreed, was WHERE g.rate_by IS NULL AND g.rate <> agreed.rate
			RETURNING was.rate AS was, g.rate),
		acts AS (
			INSERT INTO outbox_acts (who, why, act, was)
			SELECT $1, 'the lowest FLEX_RATE of the living workers is ' || rate, 'rate', was FROM moved)
		SELECT was, rate FROM moved`, r.Name, BurstTime.Seconds()).Scan(&was, &rate)
	if errors.Is(err, pgx.ErrNoRows) {
		return 0, 0, false, nil
	}
	return was, rate, err == nil, database.Wrap("rate", err)
}

// tell logs when this worker begins to fail, once a minute while it fails, and when that is over.
func (r *Registry) tell(now Standing) {
	var failing error
	if now.Word == WordFailing {
		failing = errors.New(now.Reason)
	}
	r.failing.Tell(r.Log, "nothing succeeds although calls are made", failing)
}

// compare logs once when settings begin to differ, when the difference changes, and when it ends.
func (r *Registry) compare(found []Difference) {
	said := make([]string, len(found))
	for i, d := range found {
		said[i] = d.String()
	}
	switch now := strings.Join(said, ". "); now {
	case r.differ:
	case "":
		r.differ = now
		r.Log.Info("the settings of all living workers are equal again")
	default:
		r.differ = now
		r.Log.Warn("settings differ between living workers; while FLEX_RATE differs the rate stays as it was", "differences", now)
	}
}

// PeerUnreachable says whether another living worker is stopped, as it has no way to Flex. A worker that has just
// started says so, too, until its first read is answered and its row is renewed: hence it has to have said so for a while.
func (r *Registry) PeerUnreachable() bool {
	now := r.Known().Now
	return r.anyPeer(func(r Replica) bool {
		said := now.Sub(r.Since) // below 0: Postgres's clock went back meanwhile
		return r.State == WordUnreachable && (said < 0 || said >= 2*AskEvery)
	})
}

// PeerWorks says whether another living worker takes requests and is not failing itself.
func (r *Registry) PeerWorks() bool {
	return r.anyPeer(func(r Replica) bool { return r.State.Ready() && r.State != WordFailing })
}

// anyPeer relies on a look for as long as a peer that has died at that moment is taken to live: looks may fail for long,
// as while somebody holds outbox_replicas locked.
func (r *Registry) anyPeer(is func(Replica) bool) bool {
	return time.Since(r.KnownAt()) <= aliveFor && slices.ContainsFunc(r.Known().Replicas, func(other Replica) bool { return other.Alive && other.Name != r.Name && is(other) })
}

// Known is the fleet as the latest look of this process found it; the zero value
// before the first, and of no Registry.
func (r *Registry) Known() Fleet {
	if r == nil {
		return Fleet{}
	}
	if f := r.known.Load(); f != nil {
		return f.Fleet
	}
	return Fleet{}
}

// KnownAt is when this process found the fleet as Known gives it, by its own clock; zero: never, and of no Registry.
func (r *Registry) KnownAt() time.Time {
	if r == nil {
		return time.Time{}
	}
	if f := r.known.Load(); f != nil {
		return f.at
	}
	return time.Time{}
}

// leaveLimit bounds the removal of a worker's row as it stops. A row that stays
// counts as living for aliveFor.
const leaveLimit = 2 * time.Second

// Leave removes this worker's row: it has stopped.
func (r *Registry) Leave(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), leaveLimit)
	defer cancel()
	_, err := r.Pool.Exec(ctx, `DELETE FROM outbox_replicas WHERE name = $1`, r.Name)
	return database.Wrap("leave", err)
}
