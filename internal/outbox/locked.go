package outbox

import (
	"sync"
	"time"

	"flexworker/internal/database"
	"flexworker/internal/outbox/results"
)

// Anybody may hold a row of ours locked for as long as they like: a person in psql who went to
// lunch, a report with FOR UPDATE. That is this row's own trouble. A statement that writes many rows
// waits for such a row for database.Patience and no longer, and is then carried out anew without it, by a
// function such as addApart; whose row it is hears ErrLocked, and tries again, apart from the others.
// For as long as database.Wary remembers the row, the others' statements do not wait for locked rows at all.
//
// A table that is locked as a whole, as by a migration, is no row's trouble. Where it is outbox itself, it is
// as if Postgres were away. Where it is outbox_malformed or outbox_repeats, only those messages wait that need
// it, and hear ErrTableLocked (results.Messages). A message that is younger than replayAge and makes a new request needs neither.

// ErrTableLocked is results.ErrTableLocked: a message needs a table that another transaction holds.
var ErrTableLocked = results.ErrTableLocked

// ErrLocked is database.ErrLocked: another transaction holds the row of this one request or message. Try it again later;
// the others go on.
var ErrLocked = database.ErrLocked

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
