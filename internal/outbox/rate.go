package outbox

import (
	"context"

	"flexworker/internal/database"
	"flexworker/internal/outbox/gate"
)

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
	ctx, cancel := database.Bounded(ctx)
	defer cancel()
	_, err := desk.pool.Exec(ctx, `
		WITH was AS MATERIALIZED (SELECT rate, rate_by FROM outbox_gate FOR UPDATE),
		moved AS (UPDATE outbox_gate g SET `+set+` FROM was RETURNING was.rate, was.rate_by, g.rate AS new, g.rate_by IS NULL AS auto)
		INSERT INTO outbox_acts (who, why, act, was)
		SELECT $1, $2, 'rate', rate || coalesce(' by ' || rate_by, '') || CASE WHEN auto THEN ', now auto' ELSE ', now ' || new END
		  FROM moved WHERE $3::double precision > 0`, append([]any{a.Who, a.Why, gate.BurstTime.Seconds()}, args...)...)
	return database.Wrap("rate", err)
}
