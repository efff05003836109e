package results

import (
	"context"
	"fmt"
	"slices"
	"time"

	"flexworker/internal/database"
	"flexworker/internal/outbox/gate"
)

// The tables that only some messages need.
const (
	malformedTable = "outbox_malformed"
	repeatsTable   = "outbox_repeats"
	setupsTable    = "outbox_setups"
)

// holderAge: a session is named as the holder of a table once it has held its lock for this long. The worker's own statements are
// shorter.
const holderAge = 250 * time.Millisecond

// Tables are names of tables that somebody holds as a whole.
type Tables []string

func (t Tables) has(table string) bool { return slices.Contains(t, table) }

// Malformed says whether outbox_malformed is one of them.
func (t Tables) Malformed() bool { return t.has(malformedTable) }

// Held are the tables that somebody holds, where outbox_malformed or outbox_repeats was found held lately. Else it asks
// nothing: a statement that meets a table finds out, though only after seconds.
func (m *Messages) Held(ctx context.Context) Tables {
	if !m.waryTables.Now() {
		return nil
	}
	return m.askForHeld(ctx)
}

// HeldAfter are the tables that somebody holds, where err says that a statement has waited for a lock.
func (m *Messages) HeldAfter(ctx context.Context, err error) Tables {
	if !database.IsLockTrouble(err) {
		return nil
	}
	return m.askForHeld(ctx)
}

func (m *Messages) askForHeld(ctx context.Context) Tables {
	held, err := database.TablesLocked(ctx, m.pool)
	if err != nil {
		return nil // the statement that comes next says why
	}
	for _, table := range []string{malformedTable, repeatsTable} {
		if slices.Contains(held, table) {
			m.waryTables.Met()
		} else {
			m.stall(table).GoesOn(time.Now())
		}
	}
	return held
}

// waitsFor is ErrTableLocked, of something that waits for a table that is held since began or longer, with the session
// that holds it.
func (m *Messages) waitsFor(ctx context.Context, table string, began time.Time) error {
	err := ErrTableLocked
	if holders, failed := database.Holders(ctx, m.pool, holderAge); failed == nil && len(holders) > 0 {
		err = fmt.Errorf("%w: %s", err, database.Named(holders))
	}
	m.stall(table).Failed(began, err)
	return err
}

func (m *Messages) stall(table string) *gate.Stall {
	if table == malformedTable {
		return &m.MalformedStall
	}
	return &m.RepeatsStall
}
