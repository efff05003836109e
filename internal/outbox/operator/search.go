package operator

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"flexworker/internal/outbox/request"
	"flexworker/internal/outbox/results"
)

const (
	// searchMost is how many requests are looked at for one page, and searchFor how long that may take, the wait for a
	// connection included: a page says how far it came. At least one chunk is looked at.
	searchMost = 100_000
	searchFor  = 150 * time.Millisecond
	// chunkMost is how many requests one statement looks at.
	chunkMost = 5000
	// sameTime is more than the times of two rows differ that were written at once, in another order than their ids have.
	sameTime = time.Minute
)

// A walk is an order in which requests are read, the newest first, and the candidates among which all are that a filter
// chooses. An index has the candidates in that order, or has few. So nothing is read but that index, and the rows of the
// candidates.
type walk struct {
	settled bool // ordered by settled_at and id; false: by id alone
	all     bool // every request is a candidate: the primary key has them; else parts
	// parts are conditions on outbox. Each is answered by one index, and no row meets two.
	parts []string
	// unordered: no index has the parts in the order of the walk. Their ids are read from an index, all of them, and sorted.
	unordered bool
	// inIndex is a condition that the columns of the parts' index answer, "": none. row is the condition that has to be
	// asked of the row itself.
	inIndex, row  string
	args, rowArgs params // of parts and inIndex, and of row
	// after and before are bounds of received_at. They are looked up in the ids.
	after, before time.Time
	olderThan     time.Duration
}

// walk gives the walk of a filter. What its parts and its index tell is not asked of the rows again: a condition too
// many leads the planner to another index.
func (f Filter) walk() walk {
	w := walk{}
	switch final := f.State.Final(); {
	case f.RequestIDs != nil:
		w.unordered, w.parts = true, []string{oneOf(&w.args, f.RequestIDs)}
		f.RequestIDs = nil
	case f.ForPerson:
		w.unordered, w.parts = true, []string{`state = 'uncertain' AND ` + results.ForPerson}
		f.ForPerson = false
		if f.State == request.Uncertain {
			f.State = ""
		}
	case f.Setup == SetupFailed || f.Setup == SetupWaiting: // few; the index of what failed has them in the order of the walk
		w.unordered, w.parts = f.Setup == SetupWaiting, []string{`id IN (SELECT id FROM outbox_setups WHERE ` + f.Setup.said() + `)`}
		w.after, w.before, w.olderThan = f.ReceivedAfter, f.ReceivedBefore, f.OlderThan
		f.Setup = ""
	case f.State != "" && !final: // of the uncertain no index has the order
		w.unordered, w.parts = f.State == request.Uncertain, []string{inState(f.State)}
		f.State = ""
	case final && f.State != request.Created:
		w.settled, w.parts, w.inIndex = true, []string{failed}, inState(f.State)
		inIndex := Filter{ErrorKind: f.ErrorKind, HTTPStatus: f.HTTPStatus, TwilioCode: f.TwilioCode}
		w.inIndex += ` AND ` + inIndex.where(&w.args, nil)
		if f.Since != 0 {
			w.parts[0] += ` AND ` + settledWithin(&w.args, `now()`, f.Since)
		}
		f.State, f.ErrorKind, f.HTTPStatus, f.TwilioCode, f.Since = "", "", 0, 0, 0
	case f.Since != 0:
		within := ` AND ` + settledWithin(&w.args, `now()`, f.Since)
		w.settled, w.parts = true, []string{`published_at IS NOT NULL` + within, `settled_at IS NOT NULL AND published_at IS NULL` + within}
		f.Since = 0
	default:
		w.all, w.after, w.before, w.olderThan = true, f.ReceivedAfter, f.ReceivedBefore, f.OlderThan
	}
	w.row = f.where(&w.rowArgs, nil)
	return w
}

// A place is a request in a walk. The zero value stands before the first.
type place struct {
	ID        int64
	SettledAt *time.Time // nil in a walk by id
	Matches   bool       // as far as the index tells
}

// list names a walk's order in cursors.
func (w walk) list() string {
	if w.settled {
		return "settled"
	}
	return "received"
}

func (w walk) cursor(at place) string {
	if w.settled {
		return newCursor(w.list(), at.SettledAt.UnixMicro(), at.ID)
	}
	return newCursor(w.list(), at.ID)
}

func (w walk) readCursor(cursor string) (at place, err error) {
	count := 1
	if w.settled {
		count = 2
	}
	numbers, err := readCursor(w.list(), cursor, count)
	if err != nil || numbers == nil {
		return at, err
	}
	at.ID = numbers[count-1]
	if w.settled {
		t := time.UnixMicro(numbers[0])
		at.SettledAt = &t
	}
	return at, nil
}

// candidates is the statement that gives the next places behind at, of ids not below least.
func (w walk) candidates(at place, least int64, size int) (string, params) {
	args := slices.Clone(w.args)
	columns, bounds := `id, NULL::timestamptz AS settled_at`, ""
	if w.settled {
		columns = `id, settled_at`
	}
	switch {
	case w.settled && at.SettledAt != nil:
		bounds = fmt.Sprintf(` AND (settled_at, id) < (%s::timestamptz, %s::bigint)`, args.add(*at.SettledAt), args.add(at.ID))
	case !w.settled && at.ID != 0:
		bounds = ` AND id < ` + args.add(at.ID) + `::bigint`
	}
	if least > 0 {
		bounds += ` AND id >= ` + args.add(least) + `::bigint`
	}
	matches := cmp.Or(w.inIndex, always)
	first := fmt.Sprintf(` ORDER BY %s LIMIT %d`, w.order(), size)
	parts := make([]string, len(w.parts))
	for i, part := range w.parts {
		parts[i] = `SELECT ` + columns + `, coalesce(` + matches + `, false) AS matches FROM outbox WHERE ` + part + bounds
		// Each by itself: the planner does not read the parts of a union in their order. And what is unordered apart (OFFSET),
		// or the order would lead the planner through the primary key, past every other row.
		if w.unordered {
			parts[i] = `(` + parts[i] + ` OFFSET 0)`
		} else {
			parts[i] = `(` + parts[i] + first + `)`
		}
	}
	return `SELECT * FROM (` + strings.Join(parts, ` UNION ALL `) + `) AS candidates` + first, args
}

// order is the walk's, in SQL.
func (w walk) order() string {
	if w.settled {
		return `settled_at DESC, id DESC`
	}
	return `id DESC`
}

// A chunk is the candidates that are looked at together.
type chunk struct {
	n    int
	last place // of the n
	// ids are those that match, as far as the index tells; nil: all ids from last on that are below.
	ids   []int64
	below int64
}

// nextOfAll is the statement that gives the number and the last of the next candidates, where every request is one: of ids
// below $1, and not below $2, at most $3.
const nextOfAll = `SELECT count(*), coalesce(min(id), 0) FROM (SELECT id FROM outbox WHERE id < $1 AND id >= $2 ORDER BY id DESC LIMIT $3) AS next`

// next gives the chunk behind a place, of ids not below least.
func (w walk) next(ctx context.Context, tx pgx.Tx, at place, least int64, size int) (c chunk, err error) {
	if w.all {
		c.below = cmp.Or(at.ID, math.MaxInt64)
		err = tx.QueryRow(ctx, nextOfAll, c.below, least, size).Scan(&c.n, &c.last.ID)
		return c, err
	}
	sql, args := w.candidates(at, least, size)
	places, err := rowsOf[place](ctx, tx, sql, args...)
	if c.n = len(places); c.n > 0 {
		c.last = places[c.n-1]
	}
	c.ids = make([]int64, 0, len(places))
	for _, p := range places {
		if p.Matches {
			c.ids = append(c.ids, p.ID)
		}
	}
	return c, err
}

// within is the condition that a row is one of the chunk.
func (c chunk) within(args *params) string {
	if c.ids != nil {
		return `id = ANY (` + args.add(c.ids) + `::bigint[])`
	}
	return `id >= ` + args.add(c.last.ID) + `::bigint AND id < ` + args.add(c.below) + `::bigint`
}

// A hit is a row with its place in the walk.
type hit struct {
	Row
	ID int64
}

// matching is the statement that gives the rows of a chunk that meet the walk's condition, in the order of the walk.
func (w walk) matching(c chunk, limit int) (string, params) {
	args := slices.Clone(w.rowArgs)
	return fmt.Sprintf(`SELECT %s, id FROM outbox WHERE %s AND %s ORDER BY %s LIMIT %d`, rowColumns, c.within(&args), w.row, w.order(), limit), args
}

// rows runs it.
func (w walk) rows(ctx context.Context, tx pgx.Tx, c chunk, limit int) ([]hit, error) {
	sql, args := w.matching(c, limit)
	return rowsOf[hit](ctx, tx, sql, args...)
}

// search fills a page from a walk.
type search struct {
	walk
	most  int       // how many candidates are looked at, at most
	until time.Time // no chunk begins later, but the first
	limit int       // of the rows on the page
	// pick gives those of the candidates that match, in place of walk.rows; nil: those of walk.rows.
	pick func(ctx context.Context, tx pgx.Tx, c chunk, limit int) ([]hit, error)
}

// run reads on behind at until the page is full, the walk is at its end, or it has looked for long enough.
func (s *search) run(ctx context.Context, tx pgx.Tx, at place, page *Page) error {
	pick := s.pick
	if pick == nil {
		pick = s.rows
	}
	at, least, err := s.bounds(ctx, tx, at)
	if err != nil {
		return err
	}
	size := s.limit + 1
	if s.row != always || s.pick != nil || s.inIndex != "" {
		size = 10 * size // most of them may not match
	}
	for ; ; size = chunkMost {
		size = min(size, chunkMost, s.most-page.Searched)
		c, err := s.next(ctx, tx, at, least, size)
		if err != nil {
			return err
		}
		page.Searched += c.n
		some, err := pick(ctx, tx, c, s.limit+1-len(page.Rows))
		if err != nil {
			return err
		}
		for _, f := range some {
			if len(page.Rows) == s.limit { // there is one more
				page.Next = s.cursor(at)
				return nil
			}
			page.Rows = append(page.Rows, f.Row)
			at = place{ID: f.ID, SettledAt: f.SettledAt}
		}
		if c.n < size {
			return nil
		}
		at = c.last
		switch {
		case len(page.Rows) == s.limit:
			page.Next = s.cursor(at)
			return nil
		case page.Searched >= s.most || time.Now().After(s.until):
			page.Next = s.cursor(at)
			page.SearchedTo, err = s.timeOf(ctx, tx, at)
			return err
		}
	}
}

// timeOf is when the request at a place settled, or was received.
func (s *search) timeOf(ctx context.Context, tx pgx.Tx, at place) (*time.Time, error) {
	if s.settled {
		return at.SettledAt, nil
	}
	var t time.Time
	err := tx.QueryRow(ctx, `SELECT received_at FROM outbox WHERE id = $1`, at.ID).Scan(&t)
	return &t, err
}

// bounds are the place from which, and the least id down to which, what was received within the walk's bounds stands.
func (s *search) bounds(ctx context.Context, tx pgx.Tx, at place) (place, int64, error) {
	var least int64
	if s.olderThan != 0 || !s.before.IsZero() {
		var first int64
		var before *time.Time
		if !s.before.IsZero() {
			before = new(s.before.Add(sameTime))
		}
		var olderThan *time.Duration
		if s.olderThan != 0 {
			olderThan = new(s.olderThan - sameTime)
		}
		if err := tx.QueryRow(ctx, receivedSQL, before, olderThan).Scan(&first); err != nil {
			return at, 0, err
		}
		if at.ID == 0 || first < at.ID {
			at.ID = max(first, 1)
		}
	}
	if !s.after.IsZero() {
		if err := tx.QueryRow(ctx, receivedSQL, s.after.Add(-sameTime), nil).Scan(&least); err != nil {
			return at, 0, err
		}
	}
	return at, least, nil
}

// receivedSQL is the id from which on requests were received at $1 or later, and $2 ago or later, whichever is the
// earlier time. It is found by halves: requests were received in the order of their ids.
const receivedSQL = `
	WITH RECURSIVE search (low, high) AS (
		SELECT (SELECT min(id) FROM outbox), (SELECT max(id) FROM outbox) + 1
		UNION ALL
		SELECT CASE WHEN later THEN low ELSE next + 1 END, CASE WHEN later THEN middle ELSE high END
		  FROM search, LATERAL (SELECT (low + high) / 2 AS middle) AS half,
		       LATERAL (SELECT id AS next, received_at >= least($1::timestamptz, now() - $2::interval) AS later
		                  FROM outbox WHERE id >= middle ORDER BY id LIMIT 1) AS probe
		 WHERE low < high)
	SELECT coalesce(min(high), 0) FROM search`
