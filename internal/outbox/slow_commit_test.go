package outbox

import (
	"fmt"
	"sync"
	"testing"

	"flexworker/internal/outbox/request"
	"flexworker/internal/testing/flextest"
	"flexworker/internal/testing/pgtest"
)

// TestSlowCommits: where each commit takes half a second no lease lapses under a live
// call, and each request is sent once.
func TestSlowCommits(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	pgtest.Exec(t, s.pool, `
		CREATE FUNCTION slow_commit() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
			IF current_setting('test.slowed', true) IS DISTINCT FROM pg_current_xact_id()::text THEN
				PERFORM set_config('test.slowed', pg_current_xact_id()::text, true), pg_sleep(0.5); -- once a transaction
			END IF;
			RETURN NULL;
		END $$`)
	pgtest.Exec(t, s.pool, `CREATE CONSTRAINT TRIGGER slow_commit AFTER INSERT OR UPDATE ON outbox DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION slow_commit()`)
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
