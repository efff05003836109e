package outbox

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"flexworker/internal/outbox/request"
	"flexworker/internal/testing/expect"
	"flexworker/internal/testing/flextest"
	"flexworker/internal/testing/pgtest"
)

// slowCommits has each commit that writes to outbox take so long, until the returned function is called.
func slowCommits(t *testing.T, s *Store, each time.Duration) (end func()) {
	t.Helper()
	pgtest.Exec(t, s.pool, fmt.Sprintf(`
		CREATE FUNCTION slow_commit() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
			IF current_setting('test.slowed', true) IS DISTINCT FROM pg_current_xact_id()::text THEN
				PERFORM set_config('test.slowed', pg_current_xact_id()::text, true), pg_sleep(%f); -- once a transaction
			END IF;
			RETURN NULL;
		END $$`, each.Seconds()))
	pgtest.Exec(t, s.pool, `CREATE CONSTRAINT TRIGGER slow_commit AFTER INSERT OR UPDATE ON outbox DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION slow_commit()`)
	return func() {
		pgtest.Exec(t, s.pool, `CREATE OR REPLACE FUNCTION slow_commit() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'`)
	}
}

// TestSlowCommits: where each commit takes half a second no lease lapses under a live
// call, and each request is sent once.
func TestSlowCommits(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	slowCommits(t, s, 500*time.Millisecond)
	server := flextest.New(t)
	d := newDeliverer(t, s, server)
	s.leaseFor = testLimit + request.LeaseMargin // which the commits must not use up
	stop := start(t, d)
	var adding sync.WaitGroup
	const n = 60
	for i := range n {
		adding.Go(func() {
			if _, err := s.Add(t.Context(), event(fmt.Sprint("c-", i), uint64(i+1))); err != nil {
				t.Error(err)
			}
		})
	}
	adding.Wait()
	inState(t, s, request.Created, n)
	stop()
	if made := server.Calls().Created; made != n {
		t.Errorf("%d created, want %d", made, n)
	}
	if h := pgtest.One[int](t, s.pool, `SELECT count(*) FROM outbox_attempts WHERE number <> 1 OR outcome <> 'created'`); h > 0 {
		t.Errorf("%d other things happened than one attempt each", h)
	}
	pgtest.CheckOutbox(t, s.pool)
}

// TestCommitsTooSlow: where each commit takes longer than a lease has beyond the longest call, no call is made, whether
// an insert or a claim has leased. The replica says so, for as long as it lasts, though its claims succeed; then all goes on.
func TestCommitsTooSlow(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	const margin = 2 * time.Second
	end := slowCommits(t, s, margin+100*time.Millisecond)
	server := flextest.New(t)
	d := newDeliverer(t, s, server)
	d.Limit = patience // as its calls
	s.leaseFor = d.Limit + sendMargin + margin
	var log expect.Log
	d.Log = textLog(&log)
	stop := start(t, d)
	if _, err := s.Add(t.Context(), event("a", 1)); err != nil {
		t.Error(err)
	}
	expect.Eventually(t, func() error {
		if why := d.Stalled(4 * margin); !strings.HasPrefix(why, "no lease came in time for its call for ") || !strings.Contains(why, "at most 2s: ") {
			return fmt.Errorf("it says %q", why)
		}
		return nil
	})
	if made := server.Calls().Received; made != 0 {
		t.Errorf("%d calls", made)
	}
	if r := s.row(t, "a"); r.Attempt < 2 {
		t.Errorf("%d attempts: the insert and the claims have leased", r.Attempt)
	}
	end()
	inState(t, s, request.Created, 1)
	if why := d.Stalled(1); why != "" {
		t.Errorf("afterwards it says %q", why)
	}
	stop()
	if said := log.String(); !strings.Contains(said, "level=WARN msg=\""+tooLate) || !strings.Contains(said, "works again") {
		t.Errorf("the log is\n%s", said)
	}
	pgtest.CheckOutbox(t, s.pool)
}
