package operator

import (
	"context"
	"fmt"

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
	return gate.Read(ctx, desk.reads)
}

// changeGate does an act on the gate, and reads the gate before it and afterwards.
func (desk *Desk) changeGate(ctx context.Context, a Act, act func() error) (c GateChange, err error) {
	if err = desk.mayAct(a); err != nil {
		return c, err
	}
	if c.Before, err = gate.Read(ctx, desk.pool); err != nil {
		return c, err
	}
	if err = act(); err != nil {
		return c, err
	}
	c.After, err = gate.Read(ctx, desk.pool)
	return c, err
}

// Hold shuts the gate until a person releases it. Where the gate was held or paused already, the latest
// reason is kept behind the new one, since it may still be true.
func (desk *Desk) Hold(ctx context.Context, a Act) (GateChange, error) {
	return desk.changeGate(ctx, a, func() error {
		return desk.actOnGate(ctx, a, "hold", `held_since = coalesce(held_since, clock_timestamp()),
		reason = $2 || CASE WHEN held_since IS NOT NULL OR paused_until > clock_timestamp() THEN coalesce('; before: ' || split_part(reason, '; before: ', 1), '') ELSE '' END`)
	})
}

// releaseBatch is how many requests Release makes due in one transaction.
const releaseBatch = 1000

// Release opens the gate, whoever shut it and why. Requests that Flex refused with a 429 wait for the end of the
// pause: Release makes them due at once. Where Release is cut off in between, another Release goes on. A row that
// another session holds locked is left out, and is due when it would have been: then the error is ErrLeftOut.
func (desk *Desk) Release(ctx context.Context, a Act) (GateChange, error) {
	return desk.changeGate(ctx, a, func() error { return desk.release(ctx, a) })
}

// release is Release without the gate's status.
func (desk *Desk) release(ctx context.Context, a Act) error {
	var ids []int64
	var attempts []int32 // what meets a new refusal while this goes on is left alone
	err := desk.pool.QueryRow(ctx, `
		SELECT coalesce(array_agg(id ORDER BY id), '{}'), coalesce(array_agg(attempt ORDER BY id), '{}')
		  FROM outbox WHERE state = 'pending' AND attempt > 0 AND http_status = 429 AND due_at > clock_timestamp()`).Scan(&ids, &attempts)
	if err != nil {
		return database.Wrap("release", err)
	}
	if err := desk.actOnGate(ctx, a, "release", `held_since = NULL, paused_until = NULL, reason = NULL`); err != nil {
		return err
	}
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

func (desk *Desk) actOnGate(ctx context.Context, a Act, act, set string) error {
	ctx, cancel := database.Bounded(ctx)
	defer cancel()
	_, err := desk.pool.Exec(ctx, `
		WITH was AS MATERIALIZED (SELECT held_since IS NOT NULL AS held FROM outbox_gate FOR UPDATE),
		moved AS (UPDATE outbox_gate SET `+set+`, changed_by = $1, changed_at = clock_timestamp())
		INSERT INTO outbox_acts (who, why, act, was) SELECT $1, $2, $3, CASE WHEN held THEN 'held' ELSE 'open' END FROM was`,
		desk.caller.Name, a.Why, act)
	return database.Wrap(act, err)
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
