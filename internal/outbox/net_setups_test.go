package outbox

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"flexworker/internal/database"
	"flexworker/internal/flex"
	"flexworker/internal/outbox/setup"
)

// CONFIRM in the net: the statements about set-ups on both sides. The last replica has CONFIRM off.

// confirms says whether a replica of the net has CONFIRM on.
func confirms(by int) bool { return by < netReplicas }

// netSetup is a look that was told to a replica.
type netSetup struct {
	by        int
	sim, real setup.Due
}

// lookNext takes set-ups at which a look is due.
func (n *twins) lookNext(ctx context.Context, by int) (string, error) {
	rate := []float64{1, 1e6}[n.r.IntN(2)] // what these leave of the budget is over in whole seconds, or before the next step
	real, err := n.tables.confirmation(by).Take(ctx, rate)
	if err != nil {
		return "", err
	}
	taken, lost := n.sim.takeSetups(rate), n.lost()
	expected, got := []string{}, []string{}
	said := func(d setup.Due, row int) string {
		return fmt.Sprint(row, " ", d.InteractionSID, " named ", d.Named, " task ", d.Task, " checks ", d.Checks)
	}
	for _, d := range taken.Due {
		expected = append(expected, said(d, int(d.ID)))
	}
	for _, d := range real.Due {
		row := n.tables.of[d.ID]
		got = append(got, said(d, row))
		if i := slices.IndexFunc(taken.Due, func(o setup.Due) bool { return int(o.ID) == row }); i >= 0 && !lost {
			n.looks = append(n.looks, netSetup{by, taken.Due[i], d})
		}
	}
	slices.Sort(expected)
	slices.Sort(got)
	n.also("w%d takes set-ups at %v a second: %v, off %t, lost %t", by, rate, got, real.Off, lost)
	return differ(fmt.Sprint(taken.Off, expected), fmt.Sprint(real.Off, got)), nil
}

// keepLook stores what a look has shown, or that Twilio has put it off.
func (n *twins) keepLook(ctx context.Context, _ int) (string, error) {
	l, ok := pick(n.r, n.looks)
	if !ok {
		return "", nil
	}
	setups := n.tables.confirmation(l.by)
	if n.r.IntN(6) == 0 {
		wait := time.Duration(n.r.IntN(90)) * time.Second
		n.also("w%d is told by Twilio to look at %d in %v", l.by, l.sim.ID, wait)
		n.sim.limitSetups(l.sim, wait)
		return "", setups.Limit(ctx, l.real, wait)
	}
	seen := setup.Look{Named: l.sim.Named}
	switch n.r.IntN(5) {
	case 0:
		seen.ChannelErr = &flex.LookupError{ErrorKind: "timeout"}
	case 1:
		seen.Channel.Status = "failed"
	default:
		seen.Channel.Status, seen.Customer = []string{"setup", "active"}[n.r.IntN(2)], n.r.IntN(2) == 0
	}
	v, next := seen.After(l.sim.Checks+1, l.sim.Age)
	next = next.Truncate(time.Second)
	n.also("w%d stores look %d at %d: %+v, next in %v", l.by, l.sim.Checks+1, l.sim.ID, v, next)
	stored, err := setups.Store(ctx, []setup.Finding{{Due: l.real, Look: seen, Verdict: v, Next: next}})
	if err != nil {
		return "", err
	}
	return differ(n.sim.storeSetup(l.sim, v, next), stored[0]), nil
}

// confirmation is what becomes of confirmation itself: Flex refuses a read, it is turned off, its words are given up, Flex answers again.
func (n *twins) confirmation(ctx context.Context, by int) (string, error) {
	setups := n.tables.confirmation(by)
	switch n.r.IntN(5) {
	case 0, 1:
		n.also("Flex refuses a look")
		inARow, err := setups.Refused(ctx)
		return differ(n.sim.refusedSetup(), inARow), err
	case 2:
		n.also("confirmation turns itself off")
		was, err := setups.TurnOff(ctx, "a test")
		return differ(n.sim.turnOffSetups(), was), err
	case 3:
		n.also("Flex answers a look")
		was, err := setups.Answered(ctx)
		return differ(n.sim.answeredSetup(), was), err
	default:
		gaveUp, err := setups.GiveUp(ctx)
		n.also("words are given up: %d", gaveUp)
		return differ(n.sim.giveUpSetups(), gaveUp), err
	}
}

// confirmation is the set-ups of a replica.
func (x *netTables) confirmation(by int) *setup.Setups { return &setup.Setups{Pool: x.stores[by].pool} }

// passSetups: pass for the tables of CONFIRM.
func (x *netTables) passSetups(b *pgx.Batch, s *sim) {
	for _, d := range s.setups {
		b.Queue(`UPDATE outbox_setups SET created_at = $2, due_at = $3 WHERE id = $1`, x.ids[d.row], x.time(s.now, d.createdAt), database.TimeOrNull(x.time(s.now, d.dueAt)))
	}
	b.Queue(`UPDATE outbox_confirmation SET read_at = coalesce($1::timestamptz, '-infinity'), off_since = $2`,
		database.TimeOrNull(x.time(s.now, s.confirmation.readAt)), database.TimeOrNull(x.time(s.now, s.confirmation.offSince)))
}

// readSetups reads the tables of CONFIRM.
func (x *netTables) readSetups(b *pgx.Batch, p *netPicture) {
	b.Queue(`SELECT coalesce(o.request_id, 'of no request: ' || s.id), format('checks %s word %s kind %s decided %s published %s', checks, word, s.error_kind, decided_at IS NOT NULL, s.published_at IS NOT NULL),
		       created_at, s.due_at
		  FROM outbox_setups s LEFT JOIN outbox o USING (id)`).Query(func(rows pgx.Rows) error {
		var id, text string
		var created, due *time.Time
		_, err := pgx.ForEachRow(rows, []any{&id, &text, &created, &due}, func() error {
			p.setups[id] = netSetupRow{text, [2]*time.Time{created, due}}
			return nil
		})
		return err
	})
	b.Queue(`SELECT refused, nullif(read_at, '-infinity'), off_since FROM outbox_confirmation`).QueryRow(func(row pgx.Row) error {
		return row.Scan(&p.refused, &p.confirmation[0], &p.confirmation[1])
	})
}

// netSetupRow is a row of outbox_setups of either side: all but its times, created_at and due_at, as one text.
type netSetupRow struct {
	text  string
	times [2]*time.Time
}

// expectedSetups is the same of the simulation.
func (x *netTables) expectedSetups(s *sim, p *netPicture) {
	for _, d := range s.setups {
		p.setups[x.requestID(d.row)] = netSetupRow{fmt.Sprintf("checks %d word %s kind %s decided %.1s published %.1s", d.checks, d.word, d.kind, yes(d.word != ""), yes(d.published)),
			[2]*time.Time{database.TimeOrNull(x.time(s.now, d.createdAt)), database.TimeOrNull(x.time(s.now, d.dueAt))}}
	}
	c := s.confirmation
	p.refused, p.confirmation = c.refused, [2]*time.Time{database.TimeOrNull(x.time(s.now, c.readAt)), database.TimeOrNull(x.time(s.now, c.offSince))}
}
