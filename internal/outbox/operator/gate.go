package operator

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"flexworker/internal/database"
	"flexworker/internal/outbox/gate"
)

// GateChange is the gate before an act on it and afterwards.
type GateChange struct{ Before, After gate.Status }

// Gate is the gate as it is now.
func (desk *Desk) Gate(ctx context.Context) (gate.Status, error) {
	if err := desk.MayLook(); err != nil {
		return gate.Status{}, err
	}
	g, err := gate.Read(ctx, desk.reads)
	return g, tooSlow(err)
}

// Hold shuts the gate until a person releases it. Where the gate was held already, who held it first and why stands behind the
// new reason, and so does the reason of a pause: both may still be true.
func (desk *Desk) Hold(ctx context.Context, a Act) (GateChange, error) {
	if err := desk.mayAct(a); err != nil {
		return GateChange{}, err
	}
	return desk.actOnGate(ctx, a, "hold", `held_since = coalesce(held_since, clock_timestamp()),
		reason = $2 || CASE
			WHEN held_since IS NOT NULL AND position('`+heldFirst+`' IN reason) > 0 THEN substr(reason, position('`+heldFirst+`' IN reason))
			WHEN held_since IS NOT NULL THEN coalesce('`+heldFirst+`' || changed_by || ': ' || reason, '')
			WHEN paused_until > clock_timestamp() THEN coalesce('; before: ' || reason, '') ELSE '' END`)
}

// heldFirst stands before who held the gate first, in the reason of a later hold.
const heldFirst = "; held first by "

// GateTag names the gate as a person saw it: open, or held by the latest hold. A pause, which Flex asks for and which ends by
// itself, is not in the tag.
func GateTag(g gate.Status) Tag {
	if g.State != gate.Held {
		return "open"
	}
	return Tag(heldTag + strconv.FormatInt(g.ChangedAt.UnixMicro(), 10))
}

const heldTag = "held-"

// GateSince says what people have done to the gate since somebody saw it under a tag: the latest acts.
func (desk *Desk) GateSince(ctx context.Context, tag Tag) (string, error) {
	var seen time.Time
	if micros, err := strconv.ParseInt(strings.TrimPrefix(string(tag), heldTag), 10, 64); err == nil {
		seen = time.UnixMicro(micros)
	}
	var since []string
	err := desk.read(ctx, "gate", func(tx pgx.Tx) error {
		acts, err := rowsOf[Done](ctx, tx, `SELECT `+doneColumns+` FROM outbox_acts WHERE act IN ('hold', 'release') ORDER BY id DESC LIMIT 10`)
		for _, act := range slices.Backward(acts) {
			if act.At.After(seen) {
				since = append(since, act.said())
			}
		}
		return err
	})
	if seen.IsZero() && len(since) > 1 { // it is not known when it was open
		since = since[len(since)-1:]
	}
	return strings.Join(since, "; "), err
}

// releaseBatch is how many requests Release makes due in one transaction.
const releaseBatch = 1000

// Release opens the gate, whoever shut it and why, unless somebody has held it anew since the caller saw it. Requests that Flex refused with a 429 wait for the end of the
// pause: Release makes them due at once. Where Release is cut off in between, another Release goes on. A row that
// another session holds locked is left out, and is due when it would have been: then the error is ErrLeftOut.
func (desk *Desk) Release(ctx context.Context, a Act) (c GateChange, err error) {
	if err = desk.mayAct(a); err != nil {
		return c, err
	}
	var ids []int64
	var attempts []int32 // what meets a new refusal while this goes on is left alone
	err = desk.pool.QueryRow(ctx, `
		SELECT coalesce(array_agg(id ORDER BY id), '{}'), coalesce(array_agg(attempt ORDER BY id), '{}')
		  FROM outbox WHERE state = 'pending' AND attempt > 0 AND http_status = 429 AND due_at > clock_timestamp()`).Scan(&ids, &attempts)
	if err != nil {
		return c, database.Wrap("release", err)
	}
	if c, err = desk.actOnGate(ctx, a, "release", `held_since = NULL, paused_until = NULL, reason = NULL`); err != nil {
		return c, err
	}
	return c, desk.makeDue(ctx, ids, attempts)
}

// makeDue makes due what waits behind a 429, if its latest attempt is still the one beside it.
func (desk *Desk) makeDue(ctx context.Context, ids []int64, attempts []int32) error {
	left := 0
	for from := 0; from < len(ids); from += releaseBatch {
		to := min(from+releaseBatch, len(ids))
		var still int
		err := desk.pool.QueryRow(ctx, `
			WITH waiting AS MATERIALIZED (
				SELECT o.id FROM outbox o JOIN unnest($1::bigint[], $2::integer[]) AS w (id, attempt) ON o.id = w.id AND o.attempt = w.attempt
				 WHERE state = 'pending' AND due_at > clock_timestamp()),
			free AS MATERIALIZED (
				SELECT o.id FROM outbox o JOIN waiting ON o.id = waiting.id
				 WHERE state = 'pending' AND due_at > clock_timestamp() ORDER BY o.id FOR NO KEY UPDATE OF o SKIP LOCKED),
			moved AS (UPDATE outbox o SET due_at = clock_timestamp() FROM free WHERE o.id = free.id)
			SELECT (SELECT count(*) FROM waiting) - (SELECT count(*) FROM free)`, ids[from:to], attempts[from:to]).Scan(&still)
		if err != nil {
			return fmt.Errorf("the gate is open, but what waited for it is not all due: %w. Say release again: %w", ErrLeftOut, err)
		}
		left += still
	}
	if left > 0 {
		return fmt.Errorf("the gate is open, but %d of the requests that waited for it are not due yet: %w. Say release again", left, ErrLeftOut)
	}
	return nil
}

// actOnGate does an act on the gate, if that is still as the act says that it was seen, and records the act with the
// same time. All is one transaction: it was done, or nothing was. With ErrStale, Before is the gate as it is.
func (desk *Desk) actOnGate(ctx context.Context, a Act, act, set string) (c GateChange, err error) {
	ctx, cancel := database.Bounded(ctx)
	defer cancel()
	err = pgx.BeginFunc(ctx, desk.pool, func(tx pgx.Tx) error {
		if c.Before, err = gate.ReadLocked(ctx, tx); err != nil {
			return err
		}
		if a.Seen != "" && a.Seen != GateTag(c.Before) {
			return ErrStale
		}
		// Who opened an open gate has changed nothing: who shut or opened it last stays.
		_, err := tx.Exec(ctx, `
			WITH was AS MATERIALIZED (SELECT held_since IS NOT NULL AS held, held_since IS NOT NULL OR paused_until > clock_timestamp() AS shut FROM outbox_gate),
			moved AS (UPDATE outbox_gate SET `+set+`, changed_by = $1, changed_at = clock_timestamp() FROM was WHERE shut OR $3 = 'hold' RETURNING changed_at)
			INSERT INTO outbox_acts (at, who, why, act, was)
			SELECT coalesce((SELECT changed_at FROM moved), clock_timestamp()), $1, $2, $3, CASE WHEN held THEN 'held' ELSE 'open' END FROM was`,
			desk.caller.Name, a.Why, act)
		if err != nil {
			return err
		}
		c.After, err = gate.ReadLocked(ctx, tx)
		return err
	})
	if err != nil && !errors.Is(err, ErrStale) {
		return GateChange{}, database.Wrap(act, err)
	}
	return c, err
}

// Rate sets the fleet's rate by hand: attempts a second, 0 for no limit. It stays
// until RateAuto.
func (desk *Desk) Rate(ctx context.Context, a Act, rate float64) error {
	return desk.actOnRate(ctx, a, `rate = $4, tokens = least(g.tokens, 1 + $4 * $3::double precision), rate_by = $1`, rate)
}

// RateAuto lets the rate follow FLEX_RATE again, where the living workers agree;
// the next look of one of them sets it.
func (desk *Desk) RateAuto(ctx context.Context, a Act) error {
	return desk.actOnRate(ctx, a, `rate_by = NULL`)
}

func (desk *Desk) actOnRate(ctx context.Context, a Act, set string, args ...any) error {
	if err := desk.mayAct(a); err != nil {
		return err
	}
	ctx, cancel := database.Bounded(ctx)
	defer cancel()
	_, err := desk.pool.Exec(ctx, `
		WITH was AS MATERIALIZED (SELECT rate, rate_by FROM outbox_gate FOR UPDATE),
		moved AS (UPDATE outbox_gate g SET `+set+` FROM was RETURNING was.rate, was.rate_by, g.rate AS new, g.rate_by IS NULL AS auto)
		INSERT INTO outbox_acts (who, why, act, was)
		SELECT $1, $2, 'rate', rate || coalesce(' by ' || rate_by, '') || CASE WHEN auto THEN ', now auto' ELSE ', now ' || new END
		  FROM moved WHERE $3::double precision > 0`, append([]any{desk.caller.Name, a.Why, gate.BurstTime.Seconds()}, args...)...)
	return database.Wrap("rate", err)
}
