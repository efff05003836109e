package consumer

import (
	"context"
	"testing"

	"flexworker/internal/testing/expect"
)

// hold keeps what sql locks, as somebody in psql does, until the returned function is called.
func (w *world) hold(sql string) (release func()) {
	w.t.Helper()
	tx, err := w.pool.Begin(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	release = func() { _ = tx.Rollback(context.WithoutCancel(w.t.Context())) } // a second time it says that it is over
	w.t.Cleanup(release)
	if _, err := tx.Exec(w.t.Context(), sql); err != nil {
		w.t.Fatal(err)
	}
	return release
}

// TestRowLocked: a message whose request somebody holds locked waits, and nobody else. It is no
// outage: nothing is given back, and the intake stays open.
func TestRowLocked(t *testing.T) {
	t.Parallel()
	for name, sql := range map[string]string{
		"for update": `SELECT FROM outbox WHERE request_id = 'old-0' FOR UPDATE`,
		"removed":    `DELETE FROM outbox WHERE request_id = 'old-0'`,
		"written": `INSERT INTO outbox (request_id, source, state, request, due_at, stream_sequence, stream_time)
			VALUES ('new-0', 'crm', 'pending', '{}', now(), 99, now())`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.sendMany("old", 1)
			c := w.consumer(8)
			w.run(c)
			w.acked()
			release := w.hold(sql)
			w.sendMany("old", 1) // asked again
			w.sendMany("new", 1)
			w.sendMany("more", 50)
			expect.Eventually(t, func() error {
				return expect.Is("others", w.count(`SELECT count(*) FROM outbox WHERE request_id LIKE 'more-%'`), 50)
			})
			expect.Eventually(t, func() error { return expect.Is("messages in hand", w.info().NumAckPending, 1) })
			if n, back := c.Counters.Attached.Load(), c.Counters.GivenBack.Load(); n != 1 || back != 0 {
				t.Errorf("attached %d times, %d given back", n, back)
			}
			release()
			w.acked()
			w.rows(52)
			if n := w.count(`SELECT count(*) FROM outbox_repeats`); n != 1 || w.malformed() != 0 {
				t.Errorf("%d repeats, %d malformed", n, w.malformed())
			}
		})
	}
}

// TestManyRowsLocked: where a report holds every row there is, what is asked again does not use
// up the places of what is new.
func TestManyRowsLocked(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.sendMany("old", 10)
	c := w.consumer(8)
	w.run(c)
	w.acked()
	w.hold(`SELECT FROM outbox FOR UPDATE`)
	w.sendMany("old", 10)
	w.sendMany("more", 50)
	expect.Eventually(t, func() error {
		return expect.Is("others", w.count(`SELECT count(*) FROM outbox WHERE request_id LIKE 'more-%'`), 50)
	})
	if n := c.Counters.Attached.Load(); n != 1 {
		t.Errorf("attached %d times", n)
	}
}
