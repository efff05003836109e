package outbox

import (
	"context"
	"errors"
	"net"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"flexworker/internal/database"
	"flexworker/internal/outbox/gate"
	"flexworker/internal/outbox/lookup"
	"flexworker/internal/outbox/request"
	"flexworker/internal/outbox/results"
	"flexworker/internal/testing/expect"
	"flexworker/internal/testing/faultproxy"
)

// TestEveryStatementEnds: a connection that swallows everything hangs no
// loop (riverqueue/river#1251, #1255), nor who leads the writes of others.
func TestEveryStatementEnds(t *testing.T) {
	t.Parallel()
	direct := newStore(t)
	u := direct.pool.Config().ConnConfig
	proxy := faultproxy.New(t, net.JoinHostPort(u.Host, strconv.Itoa(int(u.Port))))
	host, port, err := net.SplitHostPort(proxy.Addr())
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		t.Fatal(err)
	}
	config := direct.pool.Config()
	config.ConnConfig.Host, config.ConnConfig.Port = host, uint16(n)
	config.ConnConfig.Fallbacks = nil
	config.ConnConfig.RuntimeParams["lock_timeout"] = "50ms"
	config.MaxConns = 30
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	s := NewStore(pool, "w1", testLimit, "interaction_request")
	if err := s.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	// Its next add of x stands apart, and asks first which tables are held.
	apart := NewStore(pool, "w2", testLimit, "interaction_request")
	apart.locked.note("x", time.Now())
	_, release := holding(t, direct, `LOCK TABLE outbox_malformed IN SHARE MODE`)
	if err := apart.AddMalformed(t.Context(), request.Malformed{Message: event("", 1).Message}); !errors.Is(err, ErrTableLocked) {
		t.Fatal(err)
	}
	release()
	proxy.Blackhole()
	t.Cleanup(func() { proxy.Heal(); proxy.Cut() })
	measured := lateness(t)
	var mu sync.Mutex
	took := map[string]time.Duration{}
	var calls sync.WaitGroup
	for name, call := range map[string]func(context.Context) error{
		"add":           func(ctx context.Context) error { _, err := s.Add(ctx, event("x", 1)); return err },
		"add apart":     func(ctx context.Context) error { _, err := apart.Add(ctx, event("x", 1)); return err },
		"locked tables": func(ctx context.Context) error { _, err := database.TablesLocked(ctx, pool); return err },
		"malformed":     func(ctx context.Context) error { return s.AddMalformed(ctx, request.Malformed{}) },
		"claim":         func(ctx context.Context) error { _, err := s.claim(ctx, 1); return err },
		"record": func(ctx context.Context) error {
			_, err := s.record(ctx, record{Move: request.Move{To: request.Pending}})
			return err
		},
		"take lookups": func(ctx context.Context) error { _, err := s.Lookups.Take(ctx, 1, 0, nil); return err },
		"resolve": func(ctx context.Context) error {
			_, err := s.Lookups.Resolve(ctx, lookup.Input{}, request.Finding{}, request.Move{To: request.Uncertain}, 0)
			return err
		},
		"pause lookups":       func(ctx context.Context) error { return s.Lookups.Pause(ctx, time.Second) },
		"lapse":               func(ctx context.Context) error { _, err := s.lapse(ctx); return err },
		"expire":              func(ctx context.Context) error { _, err := s.expire(ctx); return err },
		"prune":               func(ctx context.Context) error { _, err := s.prune(ctx, time.Hour); return err },
		"unpublished results": func(ctx context.Context) error { _, err := s.Results.Unpublished(ctx, &results.Cursor{}); return err },
		"asking":              func(ctx context.Context) error { _, err := s.Results.Asking(ctx, &results.Cursor{}); return err },
		"mark": func(ctx context.Context) error {
			return s.Results.MarkPublished(ctx, []results.Answer{{Kind: results.Final, ID: 1, Number: 1}})
		},
		"renew": func(ctx context.Context) error {
			return (&gate.Registry{Pool: s.pool, Name: s.worker, WentBack: s.upkeep().WentBack, Standing: standingOK, Log: quiet}).Renew(ctx)
		},
		"follow rate": func(ctx context.Context) error {
			_, _, _, err := (&gate.Registry{Pool: s.pool, Name: s.worker}).FollowRate(ctx)
			return err
		},
		"backlog":  func(ctx context.Context) error { _, err := s.desk().Backlog(ctx); return err },
		"ready":    func(ctx context.Context) error { return s.Ready(ctx) },
		"set rate": func(ctx context.Context) error { return s.SetRate(ctx, 1) },
	} {
		calls.Go(func() { // all at once: each waits for its limit
			// The loops' contexts end with the process only; this one ends so
			// that a call which hangs is seen and not waited for.
			ctx, cancel := context.WithTimeout(t.Context(), 2*database.WriteLimit)
			defer cancel()
			begun := time.Now()
			ended := make(chan error, 1)
			go func() { ended <- call(ctx) }()
			select {
			case err := <-ended:
				mu.Lock()
				took[name] = time.Since(begun)
				mu.Unlock()
				if err == nil {
					t.Errorf("%s has succeeded", name)
				}
			case <-time.After(expect.Patience):
				proxy.Cut() // so that it does
				t.Errorf("%s did not end before its connection was cut: %v", name, <-ended)
			}
		})
	}
	calls.Wait()
	late := measured() // a machine that stands still for some seconds makes a statement no longer
	for name, d := range took {
		if d > database.WriteLimit+5*time.Second+late {
			t.Errorf("%s: after %v, the machine late by %v", name, d, late)
		}
	}
}
