package outbox

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"flexworker/internal/database"
	"flexworker/internal/loop"
	"flexworker/internal/outbox/request"
	"flexworker/internal/testing/flextest"
	"flexworker/internal/testing/pgtest"
)

// What becomes of a lease whose commit nobody confirmed: Postgres went away, or
// the connection did, between the two.

// cut ends the connection at a statement, of which the client is told nothing.
type cut struct {
	armed atomic.Bool
	at    []byte // what is sent with the statement
	made  bool   // the server gets it and commits, and only its answer is lost
}

// A cutConn is one connection that a cut may end.
type cutConn struct {
	net.Conn
	cut *cut
	off atomic.Bool
}

func (c *cutConn) Write(p []byte) (int, error) {
	if bytes.Contains(p, c.cut.at) && c.cut.armed.CompareAndSwap(true, false) {
		c.off.Store(true)
		if !c.cut.made {
			_ = c.Close() // it is over either way
			return len(p), nil
		}
	}
	return c.Conn.Write(p)
}

func (c *cutConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p) // of a statement that was made, its answer: then it is committed
	if c.off.Load() {        // asked afterwards: pgx reads ahead while a write takes long
		return 0, io.ErrUnexpectedEOF
	}
	return n, err
}

// cutting is the same process's Store on connections that end, once armed, with
// the next statement in which at is sent.
func (s *Store) cutting(t *testing.T, at string, made bool, change ...func(*pgxpool.Config)) (*Store, *cut) {
	t.Helper()
	c := &cut{at: []byte(at), made: made}
	config := s.pool.Config()
	for _, f := range change {
		f(config)
	}
	dial := config.ConnConfig.DialFunc
	config.ConnConfig.DialFunc = func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		return &cutConn{Conn: conn, cut: c}, nil
	}
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return NewStore(pool, s.worker, testLimit, "interaction_request"), c
}

// signed is in every statement that leases: the beginning of its lease token.
const signed = "w1/"

// TestClaimInDoubt: nothing was sent under leases that are in doubt, and the claimer knows: they cost the request no attempt and no lookup, nor does
// anybody have to look for what has no task.
func TestClaimInDoubt(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, at string
		made     bool
		want     string
		mode     pgx.QueryExecMode
	}{
		{"made", signed, true, "1 released, 2 created", pgx.QueryExecModeCacheStatement},
		{"made, behind pgbouncer", signed, true, "1 released, 2 created", pgx.QueryExecModeExec},
		{"not made", signed, false, "1 created", pgx.QueryExecModeCacheStatement},
		{"told, and cut while it asks what is due next", "min(o.due_at)", false, "1 created", pgx.QueryExecModeCacheStatement}, // the leases stand
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := newStore(t)
			mustAdd(t, s, "a", 3)
			cutting, c := s.cutting(t, tt.at, tt.made, func(config *pgxpool.Config) { config.ConnConfig.DefaultQueryExecMode = tt.mode })
			c.armed.Store(true)
			srv := flextest.New(t)
			stop := start(t, newDeliverer(t, cutting, srv))
			inState(t, s, request.Created, 3)
			stop()
			if c.armed.Load() {
				t.Fatal("nothing was cut")
			}
			for _, id := range []string{"a-1", "a-2", "a-3"} {
				if h := s.histories(t, id); h != tt.want {
					t.Errorf("%s: %s, want %s", id, h, tt.want)
				}
			}
			if n := srv.Calls().Received; n != 3 {
				t.Errorf("%d calls, want 3", n)
			}
			pgtest.CheckOutbox(t, s.pool)
		})
	}
}

// TestAddInDoubt: the same for what was leased by its very insert. The message
// comes again and is acked; the lease is reclaimed and sent once.
func TestAddInDoubt(t *testing.T) {
	t.Parallel()
	for name, made := range map[string]bool{"made": true, "not made": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStore(t)
			cutting, c := s.cutting(t, signed, made)
			srv := flextest.New(t)
			d := newDeliverer(t, cutting, srv)
			d.quiet = loop.NewSignal()
			stop := start(t, d)
			<-d.quiet // it has claimed and rests: the insert leases
			c.armed.Store(true)
			if _, err := cutting.Add(t.Context(), event("a", 1)); !Away(err) {
				t.Errorf("the add that was cut says %v", err)
			}
			if c.armed.Load() {
				t.Fatal("nothing was cut")
			}
			want, history := Accepted, "1 created"
			if made {
				want, history = Redelivered, "1 released, 2 created"
			}
			if got, err := cutting.Add(t.Context(), event("a", 1)); got != want || err != nil {
				t.Errorf("redelivered: %v, %v, want %v", got, err, want)
			}
			inState(t, s, request.Created, 1)
			stop()
			if h := s.histories(t, "a"); h != history {
				t.Errorf("%s, want %s", h, history)
			}
			if n := srv.Calls().Received; n != 1 {
				t.Errorf("%d calls, want 1", n)
			}
			pgtest.CheckOutbox(t, s.pool)
		})
	}
}

// TestInDoubtAtTheEnd: a Dispatcher that ends reclaims what it can.
func TestInDoubtAtTheEnd(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	mustAdd(t, s, "a", 1)
	l := mustClaim(t, s, 1)[0]
	s.markInDoubt(*s.row(t, l.RequestID).LeasedBy, io.ErrUnexpectedEOF)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	newDeliverer(t, s, flextest.New(t)).Run(ctx)
	if r := s.row(t, l.RequestID); r.State != request.Pending || r.Uncounted != 1 {
		t.Errorf("%s, uncounted %d", r.State, r.Uncounted)
	}
}

// TestReclaim: what a lease in doubt can have become, and that
// nothing but what bears its token is reclaimed.
func TestReclaim(t *testing.T) {
	t.Parallel()
	lapse := func(t *testing.T, s *Store) {
		t.Helper()
		pgtest.Exec(t, s.pool, `UPDATE outbox SET leased_until = leased_until - interval '1 minute'`)
		if n, err := s.another("w2").lapse(t.Context()); n != 1 || err != nil {
			t.Fatal(n, err)
		}
	}
	// undone is the row as it was before the claim, which was not committed.
	undone := func(t *testing.T, s *Store) {
		t.Helper()
		pgtest.Exec(t, s.pool, `UPDATE outbox SET state = 'pending', attempt = attempt - 1, leased_by = NULL, leased_until = NULL, due_at = clock_timestamp()`)
	}
	for _, tt := range []struct {
		name      string
		then      func(*testing.T, *Store)
		taken     int
		state     request.State
		attempt   int
		uncounted int
		history   string
	}{
		{"committed", func(*testing.T, *Store) {}, 1, request.Pending, 1, 1, "1 released"},
		{"committed and lapsed", lapse, 1, request.Pending, 1, 1, "1 lapsed, 1 released"},
		{"lapsed, and being looked up", func(t *testing.T, s *Store) {
			lapse(t, s)
			pgtest.Exec(t, s.pool, `UPDATE outbox SET due_at = clock_timestamp() + interval '45 s', lookups = 1`)
		}, 1, request.Pending, 1, 1, "1 lapsed, 1 released"},
		{"lapsed, and waits for a person", func(t *testing.T, s *Store) {
			lapse(t, s)
			pgtest.Exec(t, s.pool, `UPDATE outbox SET due_at = NULL, announced_at = clock_timestamp()`)
		}, 1, request.Pending, 1, 1, "1 lapsed, 1 released"},
		{"lapsed, and leased again", func(t *testing.T, s *Store) {
			lapse(t, s)
			pgtest.Exec(t, s.pool, `UPDATE outbox SET state = 'pending', due_at = clock_timestamp()`)
			mustClaim(t, s, 1)
		}, 0, request.Sending, 2, 0, "1 lapsed"},
		{"lapsed, leased again and lapsed again", func(t *testing.T, s *Store) {
			lapse(t, s)
			pgtest.Exec(t, s.pool, `UPDATE outbox SET state = 'pending', due_at = clock_timestamp()`)
			mustClaim(t, s, 1)
			lapse(t, s)
		}, 0, request.Uncertain, 2, 0, "1 lapsed, 2 lapsed"},
		{"a person resolved it", func(t *testing.T, s *Store) {
			lapse(t, s)
			if err := s.byHand(t.Context(), "a-1", 1, sidB); err != nil {
				t.Fatal(err)
			}
		}, 0, request.Created, 1, 0, "1 lapsed"},
		{"taken back already", func(t *testing.T, s *Store) {
			if _, _, _, err := s.reclaim(t.Context(), []string{*s.row(t, "a-1").LeasedBy}); err != nil {
				t.Fatal(err)
			}
		}, 0, request.Pending, 1, 1, "1 released"},
		{"not committed", undone, 0, request.Pending, 0, 0, ""},
		{"not committed, and claimed by another", func(t *testing.T, s *Store) {
			undone(t, s)
			mustClaim(t, s.another("w2"), 1)
		}, 0, request.Sending, 1, 0, ""},
		{"not committed, and claimed again", func(t *testing.T, s *Store) {
			undone(t, s)
			mustClaim(t, s, 1)
		}, 0, request.Sending, 1, 0, ""},
		{"not committed, claimed again and lapsed", func(t *testing.T, s *Store) {
			undone(t, s)
			mustClaim(t, s, 1)
			lapse(t, s)
		}, 0, request.Uncertain, 1, 0, "1 lapsed"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := newStore(t)
			id := mustAdd(t, s, "a", 1)[0]
			mustClaim(t, s, 1)
			token := *s.row(t, id).LeasedBy
			tt.then(t, s)
			taken, done, held, err := s.reclaim(t.Context(), []string{"w1/0", token})
			if err != nil || taken != tt.taken || len(done) != tt.taken || tt.taken > 0 && done[0] != token || len(held) > 0 {
				t.Errorf("%d taken back of %v, %v held, want %d: %v", taken, done, held, tt.taken, err)
			}
			r := s.row(t, id)
			if h := s.histories(t, id); r.State != tt.state || r.Attempt != tt.attempt || r.Uncounted != tt.uncounted || h != tt.history {
				t.Errorf("%s, attempt %d, uncounted %d, %q; want %s, %d, %d, %q", r.State, r.Attempt, r.Uncounted, h, tt.state, tt.attempt, tt.uncounted, tt.history)
			}
			if r.State == request.Pending && (r.ErrorKind != nil || r.LeasedBy != nil || r.Answered || r.AnnouncedAt != nil || r.Attempt > 0 && *r.DueIn > 0) {
				t.Errorf("it is pending with %+v", r)
			}
			pgtest.CheckOutbox(t, s.pool)
		})
	}
}

// TestInDoubt: how long a token is asked for.
func TestInDoubt(t *testing.T) {
	t.Parallel()
	s := NewStore(nil, "w1", testLimit, "interaction_request")
	u := &s.inDoubt
	s.markInDoubt(s.leaseToken(), &pgconn.ConnectError{})
	s.markInDoubt(s.leaseToken(), fmt.Errorf("add: %w", &pgconn.PgError{Code: "23505"}))
	if u.any() {
		t.Error("what never left, or was refused, is to be taken back")
	}
	s.markInDoubt(s.leaseToken(), io.ErrUnexpectedEOF)
	s.markInDoubt(s.leaseToken(), context.DeadlineExceeded)
	select {
	case <-u.marked:
	default:
		t.Error("nobody is woken to ask for them")
	}
	now := time.Now()
	asked := u.next(now, time.Second)
	if len(asked) != 2 || !strings.HasPrefix(asked[0], signed) {
		t.Fatalf("asked for %v", asked)
	}
	if again := u.next(now.Add(time.Second-1), time.Second); len(again) != 0 {
		t.Errorf("asked again at once for %v", again)
	}
	u.answered(asked, asked[:1], nil, now)
	if left := u.next(now.Add(time.Second), time.Second); len(left) != 1 || left[0] != asked[1] {
		t.Fatalf("left are %v", left)
	}
	u.answered(asked[1:], nil, nil, now.Add(traceless-1))
	if !u.any() {
		t.Error("given up while the commit may be on its way")
	}
	u.answered(asked[1:], nil, nil, now.Add(traceless))
	if u.any() {
		t.Error("asked for without end")
	}
	s.markInDoubt(s.leaseToken(), io.ErrUnexpectedEOF)
	u.forget(u.next(now.Add(time.Hour), time.Second))
	if u.any() {
		t.Error("not forgotten")
	}
}

// TestClaimRefused: what Postgres itself answers with an error is rolled back, so that
// nobody has to ask for it. A database that is read-only for hours would otherwise leave
// a lease in doubt for each claim.
func TestClaimRefused(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	mustAdd(t, s, "a", 1)
	for _, tt := range []struct {
		name, value, code string
		locked            bool
	}{
		{"default_transaction_read_only", "on", "25006", false}, {"lock_timeout", "20ms", "55P03", true}, {"statement_timeout", "20ms", "57014", true},
	} {
		if tt.locked {
			_, done := holding(t, s, `LOCK TABLE outbox IN SHARE MODE`)
			defer done()
		}
		refused := s.with(t, tt.name, tt.value)
		d, leased := eager(t, refused, 4)
		for n := range 3 {
			_, err := refused.claim(t.Context(), 5)
			d.backlog = false
			_, alsoErr := d.add(t, event("b", uint64(7+n)))
			for _, err := range []error{err, alsoErr} {
				if said := (*pgconn.PgError)(nil); !errors.As(err, &said) || said.Code != tt.code {
					t.Fatalf("%s: %v", tt.code, err)
				}
			}
		}
		if len(leased) != 0 || d.free() != 4 {
			t.Errorf("%s: %d leases of a statement that failed begin, %d permits are free", tt.code, len(leased), d.free())
		}
		if refused.inDoubt.any() {
			t.Errorf("%s: leases are in doubt: %v", tt.code, refused.inDoubt.tokens)
		}
	}
}

// TestNoConnectionIsNoDoubt: a statement that leases and never got a connection was never sent, so that its lease is not in
// doubt. Reclaiming it would ask Postgres for as long as a statement on its way may arrive.
func TestNoConnectionIsNoDoubt(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	config := s.pool.Config()
	config.MaxConns = 1
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	conn, err := pool.Acquire(t.Context()) // as a statement that hangs behind a lock
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Release()
	s = NewStore(pool, "w1", testLimit, "interaction_request")
	for name, lease := range map[string]func(ctx context.Context, token string) error{
		"claim": func(ctx context.Context, token string) error {
			_, _, err := s.lease(ctx, token, 1, false, 0, time.Now(), nil)
			return err
		},
		"add": func(ctx context.Context, token string) error {
			_, _, err := s.insert(ctx, database.Patience, token, some("a", 1), 1, false)
			return err
		},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		err := lease(ctx, "token")
		cancel()
		if s.markInDoubt("token", err); !errors.Is(err, context.DeadlineExceeded) || s.inDoubt.any() {
			t.Errorf("%s: a lease is in doubt: %t, after %v", name, s.inDoubt.any(), err)
		}
	}
}
