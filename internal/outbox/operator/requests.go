package operator

import (
	"cmp"
	"context"
	"time"

	"github.com/jackc/pgx/v5"
)

// A Query asks for a page of requests.
type Query struct {
	Filter
	Cursor string // Page.Next of the page before; "": the newest
}

// Page is a part of a list of requests, the newest first.
type Page struct {
	Rows []Row `json:"rows"`
	// BySettled says what is newest: what settled last, not what was received last. It is so where the filter chooses
	// requests that settled lately, or a final state other than created.
	BySettled bool `json:"by_settled"`
	// Next is the cursor of what follows; "": nothing does.
	Next string `json:"next"`
	// SearchedTo is set where the search ended before the page was full. No index answers the question, so the newest
	// requests are looked at one by one, up to 100,000 of them or for 150 ms. SearchedTo is when the last of these was
	// received, or settled. Next searches what is older.
	SearchedTo *time.Time `json:"searched_to"`
	// Searched is how many requests were looked at.
	Searched int `json:"searched"`
}

const (
	// ListMost is how many requests a page has when it is not told.
	ListMost = 100
	// ListLimit is how many requests a page has at most.
	ListLimit = 1000
)

// Requests gives the requests that a filter chooses, page by page. What was received, or settled, at the same moment as
// the clock of Postgres went back may stand in the wrong place. It fails with ErrCursor.
func (desk *Desk) Requests(ctx context.Context, q Query) (Page, error) {
	began := time.Now()
	w := q.walk()
	page := Page{Rows: []Row{}, BySettled: w.settled}
	err := desk.read(ctx, "requests", func(tx pgx.Tx) error {
		at, err := w.readCursor(q.Cursor)
		if err != nil {
			return err
		}
		s := search{walk: w, most: searchMost, until: began.Add(searchFor), limit: min(max(cmp.Or(q.Limit, ListMost), 1), ListLimit)}
		return s.run(ctx, tx, at, &page)
	})
	return page, err
}

// List gives the pages of Requests as one list, of at most f.Limit requests, 0: ListMost. It searches as long as it takes.
func (desk *Desk) List(ctx context.Context, f Filter) ([]Row, error) {
	list, most := []Row{}, cmp.Or(f.Limit, ListMost)
	for q := (Query{Filter: f}); ; {
		q.Limit = most - len(list)
		page, err := desk.Requests(ctx, q)
		if list = append(list, page.Rows...); err != nil || page.Next == "" || len(list) == most {
			return list, err
		}
		q.Cursor = page.Next
	}
}
