package outbox

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"flexworker/internal/database"
)

// Anybody may hold a row of ours locked for as long as they like: a person in psql who went to
// lunch, a report with FOR UPDATE. That is this row's own trouble. A statement that writes many rows
// waits for such a row for patience and no longer, and is then carried out anew without it (the
// functions apart below); whose row it is hears ErrLocked, and tries again, apart from the others.
// For as long as warySpan the others' statements do not wait for locked rows at all.
//
// A table that is locked as a whole, as by a migration, is no row's trouble. Where it is outbox itself, it is
// as if Postgres were away. Where it is outbox_malformed or outbox_repeats, only those messages wait that need
// it, and hear ErrTableLocked. A message that is younger than replayAge and makes a new request needs neither.

// ErrLocked is returned for one request, message or outcome whose row another transaction holds
// locked. Nothing of it was stored. Try it again later; the others go on.
var ErrLocked = errors.New("outbox: another transaction holds the row locked")

// lockedIDs are the request ids whose rows were found locked, until their messages are stored
// or for lockedSpan: another process may store one that was given back.
type lockedIDs struct{ ids sync.Map } // time.Time by id

// lockedSpan is for how long an id is remembered after it was last found locked.
const lockedSpan = time.Minute

// note remembers an id, and forgets those that nobody came back for: what is noted is rare.
func (l *lockedIDs) note(id string, now time.Time) {
	l.ids.Range(func(other, at any) bool {
		if now.Sub(at.(time.Time)) > lockedSpan {
			l.ids.Delete(other)
		}
		return true
	})
	l.ids.Store(id, now)
}

func (l *lockedIDs) forget(id string)   { l.ids.Delete(id) }
func (l *lockedIDs) has(id string) bool { _, ok := l.ids.Load(id); return ok }

// ErrTableLocked is returned for a message that needs outbox_malformed or outbox_repeats while another transaction
// holds that table. Nothing of it was stored. Try it again later; the others go on.
var ErrTableLocked = errors.New("outbox: another transaction holds a table that this message needs locked")

// The tables that only some messages need.
const (
	malformedTable = "outbox_malformed"
	repeatsTable   = "outbox_repeats"
)

// holderAge is for how long a session has held a lock at least that is named as the holder of a table: our own
// statements are shorter.
const holderAge = 250 * time.Millisecond

// tables are names of tables that somebody holds as a whole.
type tables []string

func (t tables) has(table string) bool { return slices.Contains(t, table) }

// heldTables are the tables that somebody holds, where one of those in kept was found held lately. Else it asks
// nothing: a statement that meets a table finds out, though only after seconds.
func (s *Store) heldTables(ctx context.Context) tables {
	if !s.waryTables.Now() {
		return nil
	}
	return s.askForHeld(ctx)
}

// tablesBehind are the tables that somebody holds, where err says that a statement has waited for a lock.
func (s *Store) tablesBehind(ctx context.Context, err error) tables {
	if !database.IsLockTrouble(err) {
		return nil
	}
	return s.askForHeld(ctx)
}

func (s *Store) askForHeld(ctx context.Context) tables {
	held, err := database.TablesLocked(ctx, s.pool)
	if err != nil {
		return nil // the statement that comes next says why
	}
	for table, stall := range s.kept {
		if slices.Contains(held, table) {
			s.waryTables.Met()
		} else {
			stall.GoesOn(time.Now())
		}
	}
	return held
}

// waitsFor is ErrTableLocked, of something that waits for a table that is held since began or longer, with the session
// that holds it.
func (s *Store) waitsFor(ctx context.Context, table string, began time.Time) error {
	err := ErrTableLocked
	if holders, failed := database.Holders(ctx, s.pool, holderAge); failed == nil && len(holders) > 0 {
		err = fmt.Errorf("%w: %s", err, database.Named(holders))
	}
	s.kept[table].Failed(began, err)
	return err
}
