package operator

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"flexworker/internal/outbox/request"
)

// Outcomes says what settled lately, minute by minute, and when the fleet was held meanwhile.
type Outcomes struct {
	// Minutes are all minutes from the first that was asked for up to Until, the oldest first.
	Minutes []Minute `json:"minutes"`
	// Until is the end of the last minute that was counted. It is a minute or two ago, and longer where a transaction that
	// may settle requests goes on, or no worker runs.
	Until time.Time `json:"until"`
	Held  []Hold    `json:"held"` // the oldest first
	Now   time.Time `json:"now"`  // Postgres's clock when this was read
}

// Minute is how many requests settled within one minute, by their final state. A request that was retried has settled
// more than once.
type Minute struct {
	At      time.Time             `json:"at"` // its beginning
	Settled map[request.State]int `json:"settled"`
}

// Hold is a time at which a person had shut the gate.
type Hold struct {
	Since time.Time  `json:"since"`
	Until *time.Time `json:"until"` // nil: it is held
	Who   string     `json:"who"`
	Why   string     `json:"why"`
}

const (
	outcomesSQL = `SELECT minute, outcome, sum(n)::integer FROM outbox_minutes WHERE minute >= $1 AND minute < $2 GROUP BY minute, outcome`
	// holdsSQL gives the latest acts that shut or opened the gate. holdsMost of them are enough for an hour.
	holdsSQL  = `SELECT ` + doneColumns + ` FROM outbox_acts WHERE act IN ('hold', 'release') ORDER BY id DESC LIMIT $1`
	holdsMost = 500
)

// outcomesMost is how far back minutes are kept.
const outcomesMost = 7 * 24 * time.Hour

// Outcomes gives the minutes since so long ago, at most those of a week.
func (desk *Desk) Outcomes(ctx context.Context, since time.Duration) (o Outcomes, err error) {
	since = min(since, outcomesMost)
	err = desk.read(ctx, "outcomes", func(tx pgx.Tx) error {
		var from time.Time
		if err := tx.QueryRow(ctx, `SELECT until, now(), date_trunc('minute', now() - $1::interval) FROM outbox_counted`, since).Scan(&o.Until, &o.Now, &from); err != nil {
			return err
		}
		o.Minutes = []Minute{}
		for at := from; at.Before(o.Until); at = at.Add(time.Minute) {
			o.Minutes = append(o.Minutes, Minute{At: at, Settled: map[request.State]int{}})
		}
		type counted struct {
			Minute  time.Time
			Outcome request.State
			N       int
		}
		rows, err := rowsOf[counted](ctx, tx, outcomesSQL, from, o.Until)
		if err != nil {
			return err
		}
		for _, r := range rows {
			o.Minutes[int(r.Minute.Sub(from)/time.Minute)].Settled[r.Outcome] = r.N
		}
		acts, err := rowsOf[Done](ctx, tx, holdsSQL, holdsMost)
		o.Held = holds(acts, from)
		return err
	})
	return o, err
}

// holds are the times at which the gate was held, of those that end after from. acts are holds and releases, the newest first.
func holds(acts []Done, from time.Time) []Hold {
	list := []Hold{}
	var open *Hold
	for i := len(acts) - 1; i >= 0; i-- {
		switch act := acts[i]; {
		case act.Act == "hold" && open == nil:
			open = &Hold{Since: act.At, Who: act.Who, Why: act.Why}
		case act.Act == "release" && open != nil:
			if open.Until = &act.At; act.At.After(from) {
				list = append(list, *open)
			}
			open = nil
		}
	}
	if open != nil {
		list = append(list, *open)
	}
	return list
}
