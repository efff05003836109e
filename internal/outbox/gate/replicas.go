package gate

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"flexworker/internal/outbox/request"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"flexworker/internal/database"
	"flexworker/internal/loop"
	"flexworker/internal/trouble"
)

// Word says in one word whether a replica can work, and why requests are not moving
// when they are not: the words of /readyz and of outbox_replicas.state.
type Word string

// The words. With the last five a replica is not ready.
const (
	WordOK           Word = "ok"
	WordFailing      Word = "failing"      // nothing has succeeded for a minute although calls are made
	WordLimited      Word = "limited"      // the fleet's rate is used up for the moment
	WordPaused       Word = "paused"       // Flex asked for a pause
	WordHeld         Word = "held"         // a person holds the gate
	WordDatabase     Word = "database"     // Postgres does not answer, or has not our schema
	WordNATS         Word = "nats"         // NATS does not answer, or a stream is missing
	WordDraining     Word = "draining"     // the process was told to stop
	WordUnauthorized Word = "unauthorized" // this replica's credentials are refused
	WordUnreachable  Word = "unreachable"  // this replica has no way to Flex
)

// Words are all words, in the order of the list above.
var Words = [...]Word{WordOK, WordFailing, WordLimited, WordPaused, WordHeld, WordDatabase, WordNATS, WordDraining, WordUnauthorized, WordUnreachable}

// Ready says whether a replica with this word takes requests.
func (w Word) Ready() bool {
	switch w {
	case WordOK, WordFailing, WordLimited, WordPaused, WordHeld:
		return true
	default:
		return false
	}
}

// aliveFor is how long a worker counts as living after it last renewed its row.
// It renews it with every look. outbox_attention has the same time. Apart from it, a row
// stays for an hour, and for as long its LOOKUP_SETTLE counts (lookup.LongestSettle): what a
// worker that has died began may still be under way.
const aliveFor = 10 * RenewEvery

// RenewEvery is the time between two looks of one process, in each of which its row is renewed, give or
// take a quarter, so that replicas which started together do not look together.
const RenewEvery = 1500 * time.Millisecond

// alive is the condition for a row of outbox_replicas that a living worker renews.
// A row from the future was written before the database's clock went back.
var alive = fmt.Sprintf(`seen_at BETWEEN clock_timestamp() - interval '%[1]v' AND clock_timestamp() + interval '%[1]v'`, aliveFor)

// leaveLimit bounds the removal of a worker's row as it stops. A row that stays
// counts as living for aliveFor.
const leaveLimit = 2 * time.Second

// Settings are the settings that should be equal in all workers of a fleet.
type Settings struct {
	Account         string // account sid or API key
	LookupAttribute string // "": no lookups
	LookupSettle    time.Duration
	FlexTimeout     time.Duration
	FlexRate        float64 // attempts a second; 0: no limit
	UncertainPolicy string
	Retention       time.Duration // 0: for ever
	ConfirmRate     float64       // CONFIRM_RATE; 0: CONFIRM is off
}

// Setting is one of them by its name, as text.
type Setting struct{ Name, Value string }

// Named are the settings by their names.
func (s Settings) Named() []Setting {
	confirm := "false"
	if s.ConfirmRate > 0 {
		confirm = fmt.Sprintf("true, %v reads a second", s.ConfirmRate)
	}
	return []Setting{{"TWILIO_ACCOUNT_SID or TWILIO_API_KEY", s.Account}, {"LOOKUP_ATTRIBUTE", s.LookupAttribute},
		{"LOOKUP_SETTLE", s.LookupSettle.String()}, {"FLEX_TIMEOUT", s.FlexTimeout.String()}, {"FLEX_RATE", fmt.Sprint(s.FlexRate)},
		{"UNCERTAIN_POLICY", s.UncertainPolicy}, {"RETENTION", s.Retention.String()},
		{"CONFIRM", confirm}}
}

// MarshalJSON gives the settings by their names.
func (s Settings) MarshalJSON() ([]byte, error) {
	byName := map[string]string{}
	for _, setting := range s.Named() {
		byName[setting.Name] = setting.Value
	}
	return json.Marshal(byName)
}

// Standing is what a worker says of itself. The zero value says nothing and is not ready.
type Standing struct {
	Word   Word
	Reason string    // why, in words, without secrets; "" for WordOK
	Since  time.Time // when it began to say this word, by its own clock; zero: not known
	Away   bool      // Postgres does not answer, or the gate cannot be read from it: the word is WordDatabase
	Last   time.Time // when it last created an interaction; zero: never
}

// Replica is a row of outbox_replicas: one worker.
type Replica struct {
	Name      string     `json:"name"`
	Version   string     `json:"version"`
	Alive     bool       `json:"alive"` // it renewed its row within the last 15 seconds
	State     Word       `json:"state"`
	Reason    *string    `json:"reason"`
	Since     time.Time  `json:"state_since"`
	StartedAt time.Time  `json:"started_at"`
	SeenAt    time.Time  `json:"seen_at"`
	Last      *time.Time `json:"last_created_at"` // null: none yet

	Settings Settings `json:"settings"`
}

// Difference is a setting that is not equal in all living workers.
type Difference struct {
	Setting string              `json:"setting"`
	Values  map[string][]string `json:"values"` // names of the workers by value
}

// String is the difference in words, always in the same order.
func (d Difference) String() string {
	values := make([]string, 0, len(d.Values))
	for value, names := range d.Values {
		if value == "" {
			value = "(empty)"
		}
		values = append(values, value+" ("+strings.Join(names, ", ")+")")
	}
	slices.Sort(values)
	return d.Setting + " differs: " + strings.Join(values, "; ")
}

// Fleet is all workers, and the rate that they keep to.
type Fleet struct {
	Now         time.Time    `json:"now"` // by Postgres's clock, as all times here
	Replicas    []Replica    `json:"replicas"`
	Differences []Difference `json:"differences"`
	Rate        float64      `json:"rate"`    // in force: attempts a second; 0: no limit
	RateBy      *string      `json:"rate_by"` // who set it with `worker rate`; null: FLEX_RATE where the living workers agree
}

// differences are the settings in which living workers differ.
func differences(all []Replica) []Difference {
	values := map[string]map[string][]string{}
	var order []string
	for _, r := range all {
		if !r.Alive {
			continue
		}
		for _, s := range r.Settings.Named() {
			if values[s.Name] == nil {
				values[s.Name] = map[string][]string{}
				order = append(order, s.Name)
			}
			values[s.Name][s.Value] = append(values[s.Name][s.Value], r.Name)
		}
	}
	found := []Difference{}
	for _, name := range order {
		if len(values[name]) > 1 {
			found = append(found, Difference{name, values[name]})
		}
	}
	return found
}

// agreed is the FLEX_RATE of all living workers, if they agree.
func agreed(all []Replica) (rate float64, ok bool) {
	for _, r := range all {
		switch {
		case !r.Alive:
		case !ok:
			rate, ok = r.Settings.FlexRate, true
		case r.Settings.FlexRate != rate:
			return 0, false
		}
	}
	return rate, ok
}

// fleetSQL reads all workers, and the rate with each: a row without a name where
// there is none.
var fleetSQL = `
	SELECT clock_timestamp(), g.rate, g.rate_by, coalesce(name, ''), coalesce(version, ''), coalesce(` + alive + `, false), coalesce(state, ''), r.reason,
	       coalesce(state_since, now()), coalesce(started_at, now()), coalesce(seen_at, now()), last_created_at, coalesce(account, ''),
	       coalesce(lookup_attribute, ''), coalesce(lookup_settle, '0'), coalesce(flex_timeout, '0'), coalesce(flex_rate, 0),
	       coalesce(uncertain_policy, ''), coalesce(retention, '0'), coalesce(confirm_rate, 0)
	  FROM outbox_gate g LEFT JOIN outbox_replicas r ON true ORDER BY name`

func scanFleet(rows pgx.Rows) (Fleet, error) {
	f := Fleet{Replicas: []Replica{}}
	var r Replica
	s := &r.Settings
	_, err := pgx.ForEachRow(rows, []any{&f.Now, &f.Rate, &f.RateBy, &r.Name, &r.Version, &r.Alive, &r.State, &r.Reason, &r.Since, &r.StartedAt, &r.SeenAt, &r.Last,
		&s.Account, &s.LookupAttribute, &s.LookupSettle, &s.FlexTimeout, &s.FlexRate, &s.UncertainPolicy, &s.Retention, &s.ConfirmRate}, func() error {
		if r.Name != "" {
			f.Replicas = append(f.Replicas, r)
		}
		return nil
	})
	f.Differences = differences(f.Replicas)
	return f, err
}

// ReadFleet reads all workers, the dead of the last hour included.
func ReadFleet(ctx context.Context, pool *pgxpool.Pool) (Fleet, error) {
	ctx, cancel := database.Bounded(ctx)
	defer cancel()
	rows, err := pool.Query(ctx, fleetSQL)
	if err != nil {
		return Fleet{}, database.Wrap("fleet", err)
	}
	f, err := scanFleet(rows)
	return f, database.Wrap("fleet", err)
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

// Leave removes this worker's row: it has stopped.
func (r *Registry) Leave(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), leaveLimit)
	defer cancel()
	_, err := r.Pool.Exec(ctx, `DELETE FROM outbox_replicas WHERE name = $1`, r.Name)
	return database.Wrap("leave", err)
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
