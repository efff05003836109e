package page

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"

	"flexworker/internal/database"
	"flexworker/internal/outbox/gate"
	"flexworker/internal/outbox/operator"
)

const (
	// freshFor is how old a moment may be that is shown. However many look, Postgres is asked no more often.
	freshFor = 2 * time.Second
	// watchFor is how long a request is read beside the others after somebody asked for its mark.
	watchFor = 15 * time.Second
	// decidingMost is how many of the requests that wait for a decision are kept in mind.
	decidingMost = 50
	// watchMost bounds how many requests are read beside each other.
	watchMost = 500
)

// A moment is what this replica read for all who look at once.
type moment struct {
	read     time.Time // by this process's clock
	now      operator.Now
	deciding operator.Page // requests that wait for a decision, the newest first
	outcomes operator.Outcomes
	backlog  []operator.Backlog
	counted  time.Time
	stream   stream
	marks    map[string]string
	// Why a part could not be read; nil: it was.
	nowErr, outcomesErr error
	// standing is what the worker said of itself where the gate could not be read.
	standing gate.Standing
}

// A stream is how many messages of the request stream no worker has stored yet. The zero value: nobody knows.
type stream struct {
	Messages int
	Known    bool
}

// memory keeps the latest moment, and the marks of the requests that somebody looks at.
type memory struct {
	page     *Page
	freshFor time.Duration

	mu       sync.Mutex
	last     *moment
	changes  int // acts of this process: a moment from before the latest is not shown
	watching map[string]watched

	reads singleflight.Group
}

// forget has the next who asks read anew: somebody has just done something, and wants to see it.
func (m *memory) forget() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.last, m.watching = nil, nil
	m.changes++
}

// at is the moment now. Whoever may not look is refused, whatever is known already.
func (m *memory) at(ctx context.Context, desk *operator.Desk) (*moment, error) {
	if err := desk.MayLook(); err != nil {
		return nil, err
	}
	m.mu.Lock()
	last, changes := m.last, m.changes
	m.mu.Unlock()
	if last != nil && time.Since(last.read) < m.freshFor {
		return last, nil
	}
	read := m.reads.DoChan(strconv.Itoa(changes), func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), limit)
		defer cancel()
		now := m.page.read(ctx, desk)
		m.mu.Lock()
		defer m.mu.Unlock()
		if m.changes == changes {
			m.last = now
		}
		return now, nil
	})
	select {
	case r := <-read:
		return r.Val.(*moment), nil
	case <-ctx.Done():
	}
	var away awayError
	switch {
	case errors.As(context.Cause(ctx), &away):
		now := m.page.unread(away.Standing, away)
		m.mu.Lock()
		defer m.mu.Unlock()
		m.last = now // the next who asks is answered at once
		return now, nil
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return m.page.unread(m.page.Standing(ctx), operator.ErrTooSlow), nil
	default:
		return nil, ctx.Err() // the browser hung up
	}
}

// away says whether the worker had no Postgres when it was asked last.
func (m *memory) away() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.last != nil && m.last.standing.Away
}

// unread is a moment of which only that is known what the worker knows without Postgres.
func (p *Page) unread(s gate.Standing, why error) *moment {
	m := &moment{read: time.Now(), standing: s, nowErr: why, outcomesErr: why}
	m.backlog, m.counted = p.Backlog()
	m.stream.Messages, m.stream.Known = p.Stream()
	m.mark(operator.Newest{}, why)
	return m
}

// read asks Postgres. What it does not answer is kept as an error in its place.
func (p *Page) read(ctx context.Context, desk *operator.Desk) *moment {
	m := &moment{read: time.Now()}
	m.backlog, m.counted = p.Backlog()
	m.stream.Messages, m.stream.Known = p.Stream()
	m.now, m.nowErr = desk.Now(ctx)
	if m.nowErr == nil {
		m.deciding, m.nowErr = desk.Requests(ctx, operator.Query{Filter: operator.Filter{ForPerson: true, Limit: decidingMost}})
	}
	m.outcomes, m.outcomesErr = desk.Outcomes(ctx, time.Hour)
	newest, err := operator.Newest{}, m.nowErr
	if err == nil { // else the same tables would keep everybody waiting once more
		newest, err = desk.Newest(ctx)
	}
	if m.gateErr() != nil && !database.IsLockTrouble(m.nowErr) {
		m.standing = p.Standing(ctx)
	}
	m.mark(newest, err)
	return m
}

// mark gives each part its mark. err is why it is not known what is newest.
func (m *moment) mark(newest operator.Newest, err error) {
	n := m.now
	m.marks = map[string]string{}
	m.marks["gate"] = hash(n.Gate.State, n.Gate.Rate, n.Gate.HeldSince, n.Gate.Reason, n.Gate.ChangedBy, n.Gate.ChangedAt, m.gateErr(), m.standing.Word, m.standing.Reason, m.standing.Since)
	m.marks["fleet"] = hash(standings(n.Fleet), n.Fleet.Differences, n.Fleet.Rate, n.Fleet.RateBy, m.gateErr())
	ids, count := m.undecided()
	m.marks["attention"] = hash(n.Attention, n.Waiting, ids, count, m.nowErr)
	m.marks["failures"] = hash(n.Failing, m.nowErr)
	m.marks["locks"] = hash(len(n.Holders))
	m.marks["backlog"] = hash(m.counted, m.stream)
	m.marks["outcomes"] = hash(m.outcomes, m.outcomesErr)
	m.marks["requests"] = hash(newest.Request, newest.Act, m.backlog, err)
	m.marks["acts"] = hash(newest.Act, err)
	m.marks["malformed"] = hash(newest.Malformed, err)
}

// standings are the workers without what changes with every look.
func standings(f gate.Fleet) (all []any) {
	for _, r := range f.Replicas {
		over := lapsed(r, f.Now)
		r.SeenAt, r.Last = time.Time{}, nil
		all = append(all, r, over)
	}
	return all
}

// hash is the same for the same values in every replica.
func hash(values ...any) string {
	h := fnv.New64a()
	for _, v := range values {
		if err, ok := v.(error); ok {
			v = err.Error()
		}
		text, err := json.Marshal(v)
		if err != nil {
			text = fmt.Append(nil, v)
		}
		_, _ = h.Write(text) // which cannot fail
		_, _ = h.Write([]byte{0})
	}
	return strconv.FormatUint(h.Sum64(), 36)
}

// markOf is what the regions that show these parts have to be of, to be true.
func (m *moment) markOf(of ...string) string {
	marks := make([]string, len(of))
	for i, name := range of {
		marks[i] = m.marks[name]
	}
	return strings.Join(marks, ".")
}

// and is the moment with one more mark.
func (m *moment) and(name, mark string) *moment {
	more := *m
	more.marks = maps.Clone(m.marks)
	more.marks[name] = mark
	return &more
}

// gateErr is why gate, fleet and locks are not known; nil: they are.
func (m *moment) gateErr() error {
	if m.now.Unread != nil {
		return nil
	}
	return m.nowErr
}

// waiting is how much needs a person; "": nothing does, or that is not known.
func (m *moment) waiting() string {
	switch n := m.now.Waiting; {
	case n == 0:
		return ""
	case n > operator.WaitingMost:
		return thousands(operator.WaitingMost) + "+"
	default:
		return thousands(int64(n))
	}
}

// undecided are requests that wait for a person's decision, the oldest first, and how many do; "": none.
func (m *moment) undecided() (ids []string, count string) {
	for _, row := range slices.Backward(m.deciding.Rows) {
		ids = append(ids, row.RequestID)
	}
	if len(ids) > 0 {
		count = strconv.Itoa(len(ids))
	}
	if m.deciding.Next != "" {
		count += "+"
	}
	return ids, count
}

// clock is Postgres's time of the moment, or ours where it was not told.
func (m *moment) clock() time.Time {
	if m.now.Fleet.Now.IsZero() {
		return m.read
	}
	return m.now.Fleet.Now
}
