package outbox

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"flexworker/internal/flex"
	"flexworker/internal/outbox/request"
	"flexworker/internal/testing/flextest"
)

// says is a Flex that gives one answer to every call.
type says flex.Outcome

func (o says) Create(context.Context, flex.Interaction) flex.Outcome { return flex.Outcome(o) }
func (o says) Check(context.Context) flex.Outcome                    { return flex.Outcome(o) }

// TestAttemptOfAnother: the log line of an attempt, its numbers and its span say what was stored of it. Of an answer that
// names the interaction of another request that is uncertain, where the other had it before and where both come at once.
func TestAttemptOfAnother(t *testing.T) {
	t.Parallel()
	for _, atOnce := range []bool{false, true} {
		t.Run(fmt.Sprintf("at once %t", atOnce), func(t *testing.T) {
			t.Parallel()
			s := newStore(t)
			mustAdd(t, s, "r", 2, keyed)
			leases := mustClaim(t, s, 2)
			o := good
			o.Mine = false
			var counters Counters
			var mu sync.Mutex
			spans := map[string]int{}
			logs := make([]bytes.Buffer, 2)
			replicas := make([]*Dispatcher, 2)
			for i := range replicas {
				d := newDeliverer(t, s.another(fmt.Sprint("w", i)), flextest.New(t))
				d.Flex, d.Counters, d.Log = says(o), &counters, textLog(&logs[i])
				d.Attempted = func(a Attempt) {
					mu.Lock()
					defer mu.Unlock()
					spans[a.Outcome.Kind.String()]++
				}
				replicas[i] = d
			}
			deliver := func(i int) { replicas[i].deliverOne(context.WithoutCancel(t.Context()), leases[i]) }
			if atOnce {
				pid, open := s.barrier(t)
				var both sync.WaitGroup
				both.Go(func() { deliver(0) })
				both.Go(func() { deliver(1) })
				s.waiting(t, pid, 2)
				open()
				both.Wait()
			} else {
				deliver(0)
				deliver(1)
			}
			for i, l := range leases {
				r, said := s.row(t, l.RequestID), logs[i].String()
				if n := strings.Count(said, "msg=attempt"); n != 1 {
					t.Errorf("%d lines about an attempt: %s", n, said)
				}
				want := fmt.Sprintf("outcome=%s took_ms=1500 to=%[1]s", r.State)
				if r.State == request.Uncertain {
					want = "outcome=uncertain took_ms=1500 to=uncertain twilio_request_id=RQ1 error_kind=other_request"
				}
				if !strings.Contains(said, want) {
					t.Errorf("it is %s, and the log says: %s", r.State, said)
				}
			}
			if got := s.row(t, leases[0].RequestID).State + " " + s.row(t, leases[1].RequestID).State; got != "created uncertain" && (!atOnce || got != "uncertain created") {
				t.Errorf("they are %s", got)
			}
			if c, u := counters.Attempts[flex.Created].Load(), counters.Attempts[flex.Uncertain].Load(); c != 1 || u != 1 {
				t.Errorf("%d attempts are counted as created, %d as uncertain", c, u)
			}
			if spans["created"] != 1 || spans["uncertain"] != 1 {
				t.Errorf("told were %v", spans)
			}
		})
	}
}

// TestAttemptIsInTheLogFirst: an outcome is in the log before its record is stored: the process may die before that is done.
func TestAttemptIsInTheLogFirst(t *testing.T) {
	t.Parallel()
	for _, o := range []flex.Outcome{good, {Kind: flex.Refused, ErrorKind: "dial"}, {Kind: flex.Uncertain, ErrorKind: "timeout"}} {
		t.Run(o.Kind.String(), func(t *testing.T) {
			t.Parallel()
			s := newStore(t)
			mustAdd(t, s, "crm", 1)
			l := mustClaim(t, s, 1)[0]
			pid, open := s.barrier(t)
			lines := make(chan string, 10)
			d := newDeliverer(t, s, flextest.New(t))
			d.Flex, d.Log = says(o), textLog(writerFunc(func(b []byte) (int, error) { lines <- string(b); return len(b), nil }))
			var ended sync.WaitGroup
			ended.Go(func() { d.deliverOne(context.WithoutCancel(t.Context()), l) })
			s.waiting(t, pid, 1)
			select {
			case line := <-lines:
				if !strings.Contains(line, "msg=attempt") || !strings.Contains(line, "request_id=crm-1") {
					t.Errorf("the log says: %s", line)
				}
			default:
				t.Error("the log says nothing before the record is stored")
			}
			open()
			ended.Wait()
			if len(lines) != 0 {
				t.Errorf("then it also says %s", <-lines)
			}
		})
	}
}

// TestAnsweredIsInTheLog: of an interaction that no lookup would find by its key, the log has the sid before the record is
// stored: the process may die before that is done.
func TestAnsweredIsInTheLog(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	mustAdd(t, s, "bare", 1)
	l := mustClaim(t, s, 1)[0]
	pid, open := s.barrier(t)
	lines := make(chan string, 10)
	o := good
	o.Mine = false
	d := newDeliverer(t, s, flextest.New(t))
	d.Flex, d.Log = says(o), textLog(writerFunc(func(b []byte) (int, error) { lines <- string(b); return len(b), nil }))
	var ended sync.WaitGroup
	ended.Go(func() { d.deliverOne(context.WithoutCancel(t.Context()), l) })
	s.waiting(t, pid, 1)
	select {
	case line := <-lines:
		if !strings.Contains(line, "request_id=bare-1") || !strings.Contains(line, "interaction_sid="+sidA) {
			t.Errorf("the log says: %s", line)
		}
	default:
		t.Error("the log says nothing before the record is stored")
	}
	open()
	ended.Wait()
	if len(lines) != 1 || !strings.Contains(<-lines, "msg=attempt") {
		t.Error("then it does not say what was stored")
	}
}

// deliverOne makes the attempt of a lease that was claimed for the test, however long ago.
func (d *Dispatcher) deliverOne(ctx context.Context, l Lease) {
	d.prepare(ctx)
	d.permits.Take(1)
	l.Until = time.Now().Add(time.Hour)
	d.deliver(ctx, l)
}
