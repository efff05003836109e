package results

import (
	"context"
	"os"
	"testing"
	"time"

	"flexworker/internal/database"
	"flexworker/internal/loop"
	"flexworker/internal/outbox/request"
	"flexworker/internal/testing/pgtest"
	"flexworker/migrations"
)

func TestMain(m *testing.M) { os.Exit(pgtest.Run(m)) }

var migrated = pgtest.NewTemplate(migrations.Up)

func message(sequence uint64) request.Message {
	return request.Message{Stream: "REQUESTS", Source: "crm", Sequence: sequence,
		Time: time.Date(2026, 11, 22, 9, 0, 0, 0, time.UTC).Add(time.Duration(sequence) * time.Second)}
}

// TestRepeatOfARemovedRequest: retention removes a request between the two steps
// of Add; the repeat is not kept for nobody, it is delivered again.
func TestRepeatOfARemovedRequest(t *testing.T) {
	t.Parallel()
	pool := migrated.NewPool(t, database.ForLoops)
	m := NewMessages(pool, loop.NewSignal())
	answers := []Known{TooOld}
	kept, err := m.keepRepeats(t.Context(), []repeat{{id: 4711, requestID: "gone", Message: message(2)}})
	if err = answer(answers, []int{0}, Repeated, kept, err); err != nil || answers[0] != Removed {
		t.Errorf("%v, %v: the message would be acked", answers[0], err)
	}
	if n := pgtest.One[int](t, pool, `SELECT count(*) FROM outbox_repeats`); n != 0 {
		t.Errorf("%d orphans", n)
	}
}

// hurried is a context of which always little is left, and which does not end: how long the machine takes does not matter.
type hurried struct{ context.Context }

func (hurried) Deadline() (time.Time, bool) { return time.Now().Add(database.WriteLimit / 4), true }

// TestKeepManyLocked: where more rows are held than one write has time for, those of which it was not found out count as
// locked, too.
func TestKeepManyLocked(t *testing.T) {
	t.Parallel()
	const held = 150
	pool := migrated.NewPool(t, database.ForLoops)
	m := NewMessages(pool, loop.NewSignal())
	all := make([]request.Malformed, held+2) // nobody holds the first and the last
	for i := range all {
		all[i] = request.Malformed{Message: message(uint64(i + 1)), Err: "not JSON"}
	}
	_, release := pgtest.Holding(t, pool, `INSERT INTO outbox_malformed (kind, stream, stream_sequence, stream_time, subject, source, headers, raw, error)
		SELECT 'malformed', 'REQUESTS', n, $1::timestamptz + n * interval '1 s', '', '', '{}', '', '' FROM generate_series(2, $2::integer + 1) n`,
		all[0].Time.Add(-time.Second), held)
	keep := func() (locked int) {
		t.Helper()
		kept, err := m.keepMalformed(hurried{t.Context()}, "malformed", all)
		if err != nil {
			t.Fatal(err)
		}
		for _, k := range kept {
			if k == rowLocked {
				locked++
			}
		}
		return locked
	}
	if n := keep(); n != held+1 { // the time did not suffice to come to the last one
		t.Errorf("%d are locked, want %d", n, held+1)
	}
	release()
	if n := keep(); n != 0 {
		t.Errorf("%d are locked", n)
	}
}
