package operator

import (
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"flexworker/internal/outbox/request"
	"flexworker/internal/testing/pgtest"
)

// sparse are requests an hour apart, whose ids have gaps: every seventh is there, and one in fifty is of the source rare.
const sparse = `
	INSERT INTO outbox (id, request_id, source, state, request, error_kind, stream_sequence, stream_time, received_at, settled_at, published_at) OVERRIDING SYSTEM VALUE
	SELECT 7 * n, n, CASE WHEN n % 50 = 0 THEN 'rare' ELSE 'crm' END, 'rejected', '{}', CASE WHEN n % 3 = 0 THEN 'http_400' ELSE 'invalid' END, n, at, at, at + interval '1 minute', at
	  FROM generate_series(1, 3000) AS n, LATERAL (SELECT now() - (3000 - n) * interval '1 hour' AS at) AS t`

// inTx answers in a transaction.
func inTx[T any](t *testing.T, pool *pgxpool.Pool, ask func(tx pgx.Tx) (T, error)) (answer T) {
	t.Helper()
	err := pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) (err error) {
		answer, err = ask(tx)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return answer
}

// TestSearchGoesOn: a search that no index answers ends after so many candidates, or after so long, and says how far it came;
// its cursor goes on there, and all pages together have each request that matches, once.
func TestSearchGoesOn(t *testing.T) {
	t.Parallel()
	pool := migrated.NewPool(t, nil)
	pgtest.Exec(t, pool, sparse)
	far := time.Now().Add(time.Hour)
	for _, tt := range []struct {
		name     string
		f        Filter
		until    time.Time
		searches int // that ended before their page was full
		matches  int
	}{
		{"by candidates", Filter{Source: "rare"}, far, 4, 60},
		{"by time", Filter{Source: "rare"}, time.Time{}, 5, 60},
		{"of the rows of an index", Filter{State: request.Rejected, Source: "rare"}, far, 4, 60},
		{"in an index", Filter{State: request.Rejected, ErrorKind: "http_503"}, far, 4, 0},
		{"what most have", Filter{Source: "crm"}, far, 0, 2940},
	} {
		s := search{walk: tt.f.walk(), most: 700, until: tt.until, limit: 50}
		var got []string
		var at place
		searches, back := 0, time.Now()
		for {
			page := inTx(t, pool, func(tx pgx.Tx) (page Page, err error) {
				err = s.run(t.Context(), tx, at, &page)
				return page, err
			})
			for _, r := range page.Rows {
				got = append(got, r.RequestID)
			}
			if page.Searched > s.most || len(page.Rows) > s.limit {
				t.Errorf("%s: a page looked at %d and has %d", tt.name, page.Searched, len(page.Rows))
			}
			if page.SearchedTo != nil {
				searches++
				if !page.SearchedTo.Before(back) {
					t.Errorf("%s: searched back to %v, and before that to %v", tt.name, page.SearchedTo, back)
				}
				back = *page.SearchedTo
			}
			if page.Next == "" {
				break
			}
			var err error
			if at, err = s.readCursor(page.Next); err != nil {
				t.Fatal(err)
			}
		}
		if slices.Sort(got); len(slices.Compact(got)) != tt.matches {
			t.Errorf("%s: %d were found, want %d", tt.name, len(slices.Compact(got)), tt.matches)
		}
		if searches != tt.searches {
			t.Errorf("%s: %d pages ended early, want %d", tt.name, searches, tt.searches)
		}
	}
}

// TestReceived: the ids of what was received before and after a moment are found, whatever is missing between them.
func TestReceived(t *testing.T) {
	t.Parallel()
	pool := migrated.NewPool(t, nil)
	from := func(at time.Time, ago any) int64 {
		return inTx(t, pool, func(tx pgx.Tx) (id int64, err error) {
			err = tx.QueryRow(t.Context(), receivedSQL, at, ago).Scan(&id)
			return id, err
		})
	}
	if id := from(time.Now(), nil); id != 0 {
		t.Errorf("of no request: %d", id)
	}
	pgtest.Exec(t, pool, sparse)
	for n := 1; n <= 3001; n += 37 {
		at := pgtest.One[time.Time](t, pool, `SELECT max(received_at) - interval '1 hour' * (3000 - $1::integer) FROM outbox`, n)
		if id := from(at, nil); id <= 7*int64(n-1) || id > 7*int64(n) {
			t.Errorf("request %d: from id %d", n, id)
		}
		if id := from(at.Add(time.Second), nil); id <= 7*int64(n) || id > 7*int64(n+1) {
			t.Errorf("behind request %d: from id %d", n, id)
		}
	}
	if id := from(time.Now(), 10*time.Hour+time.Minute); id <= 7*2989 || id > 7*2990 {
		t.Errorf("ten hours ago: from id %d", id)
	}
	for name, tt := range map[string]struct {
		f    Filter
		want int
	}{
		"before":     {Filter{ReceivedBefore: time.Now().Add(-90 * time.Minute)}, 2998},
		"after":      {Filter{ReceivedAfter: time.Now().Add(-90 * time.Minute)}, 2},
		"between":    {Filter{ReceivedAfter: time.Now().Add(-11*time.Hour + time.Minute), ReceivedBefore: time.Now().Add(-9 * time.Hour)}, 2},
		"older than": {Filter{OlderThan: 90 * time.Minute}, 2998},
		"never":      {Filter{ReceivedAfter: time.Now().Add(time.Hour)}, 0},
	} {
		s := search{walk: tt.f.walk(), most: searchMost, until: time.Now().Add(time.Hour), limit: 5000}
		page := inTx(t, pool, func(tx pgx.Tx) (page Page, err error) {
			err = s.run(t.Context(), tx, place{}, &page)
			return page, err
		})
		if len(page.Rows) != tt.want || page.Searched > tt.want+1 {
			t.Errorf("%s: %d requests, of %d looked at, want %d", name, len(page.Rows), page.Searched, tt.want)
		}
	}
}
