package operator_test

import (
	"errors"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"flexworker/internal/database"
	"flexworker/internal/outbox/operator"
	"flexworker/internal/testing/expect"
	"flexworker/internal/testing/pgtest"
)

// TestHoldBesideActsOnMany: however many acts on many requests are under way, and however long they take, a hold and an act on
// one request get a connection.
func TestHoldBesideActsOnMany(t *testing.T) {
	t.Parallel()
	s := newRig(t)
	mustAdd(t, s, "r", 4)
	pgtest.Exec(t, s.pool, `CREATE TABLE may_end (at timestamptz)`)
	pgtest.Exec(t, s.pool, `CREATE FUNCTION takes_long() RETURNS trigger LANGUAGE plpgsql AS $$
		BEGIN WHILE NOT EXISTS (SELECT FROM may_end) LOOP PERFORM pg_sleep(0.01); END LOOP; RETURN NEW; END $$`)
	pgtest.Exec(t, s.pool, `CREATE TRIGGER takes_long BEFORE UPDATE ON outbox FOR EACH ROW WHEN (OLD.request_id <> 'r-4') EXECUTE FUNCTION takes_long()`)
	config := s.pool.Config()
	database.Set(config.ConnConfig, "statement_timeout", "5min")
	config.MaxConns = 2 // as the pool of those who act has
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	desk := operator.NewDesk(pool, ann, nil)
	type ended struct {
		id  string
		all operator.Affected
		err error
	}
	ends := make(chan ended, 2)
	for _, id := range []string{"r-1", "r-2"} {
		go func() {
			all, err := desk.For(operator.Caller{Name: id, Right: operator.MayAct}).Do(t.Context(), operator.ToCancel(), aTest, operator.Filter{RequestIDs: []string{id, "r-3"}})
			ends <- ended{id, all, err}
		}()
	}
	var refused ended
	expect.Eventually(t, func() error {
		select {
		case refused = <-ends:
			return nil
		default:
			return expect.Is("connections of acts under way", pool.Stat().AcquiredConns(), 2)
		}
	})
	if _, err := desk.Hold(t.Context(), aTest); err != nil {
		t.Error(err)
	}
	if !errors.Is(refused.err, operator.ErrBusy) {
		pgtest.Exec(t, s.pool, `INSERT INTO may_end VALUES (now())`)
		t.Fatalf("the second act on many was not refused: %+v", refused)
	}
	if all, err := desk.Do(t.Context(), operator.ToCancel(), aTest, operator.Filter{RequestIDs: []string{"r-4"}}); err != nil || all.N != 1 {
		t.Error(all, err)
	}
	pgtest.Exec(t, s.pool, `INSERT INTO may_end VALUES (now())`)
	select {
	case done := <-ends:
		if done.err != nil || done.all.N != 2 {
			t.Errorf("%+v", done)
		}
	case <-time.After(5 * time.Minute):
		t.Fatal("the act on many does not end")
	}
	if all, err := desk.Do(t.Context(), operator.ToCancel(), aTest, operator.Filter{}); err != nil || all.N != 1 {
		t.Error("after it", all, err)
	}
}
