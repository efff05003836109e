package gate

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"flexworker/internal/database"
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
