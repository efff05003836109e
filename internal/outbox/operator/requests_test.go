package operator_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"flexworker/internal/outbox/operator"
	"flexworker/internal/outbox/request"
	"flexworker/internal/testing/pgtest"
)

// ids are the request ids of rows.
func ids(rows []operator.Row) string {
	var all []string
	for _, r := range rows {
		all = append(all, r.RequestID)
	}
	return strings.Join(all, " ")
}

// pages reads a list of requests to its end, page by page, and joins the ids. A search that a busy machine has ended early goes
// on with the next page.
func pages(t *testing.T, s *rig, q operator.Query) string {
	t.Helper()
	var all []string
	for range 1000 {
		page, err := s.desk.Requests(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		if len(page.Rows) > q.Limit {
			t.Errorf("%+v: %d rows on a page", q, len(page.Rows))
		}
		if page.SearchedTo != nil && page.Next == "" {
			t.Errorf("%+v: the search ended early, after %d, and nothing says where to go on", q, page.Searched)
		}
		if len(page.Rows) > 0 {
			all = append(all, ids(page.Rows))
		}
		if q.Cursor = page.Next; q.Cursor == "" {
			return strings.Join(all, " ")
		}
	}
	t.Fatalf("%+v: there is no end", q)
	return ""
}

// TestRequestsPages: whichever index a list is read from, its pages have each request once, the newest first.
func TestRequestsPages(t *testing.T) {
	t.Parallel()
	s := newRig(t)
	mustAdd(t, s, "a", 20)
	mustAdd(t, s, "f", 20, faulty("no"))
	// Each half of what is pending is an index of its own, in an order that is not that of the ids; so is each half of what settled.
	pgtest.Exec(t, s.pool, `UPDATE outbox SET due_at = now() - id * interval '1 minute', priority = id % 10, attempt = id % 2,
		attempt_began_at = now(), error_kind = 'http_503', http_status = 503 WHERE state = 'pending'`)
	pgtest.Exec(t, s.pool, `UPDATE outbox SET settled_at = now() - (100 - id) * interval '1 minute', published_at = CASE WHEN id % 2 = 0 THEN now() END,
		http_status = CASE WHEN id % 4 = 0 THEN 400 END, source = CASE WHEN id % 5 = 0 THEN 'shop' ELSE 'crm' END WHERE state = 'rejected'`)
	list := func(prefix string, which func(i int) bool) string {
		var all []string
		for i := 20; i > 0; i-- {
			if which(i) {
				all = append(all, fmt.Sprintf("%s-%d", prefix, i))
			}
		}
		return strings.Join(all, " ")
	}
	every := func(int) bool { return true }
	later := func(i int) bool { return 100-(20+i) < 75 }
	for _, tt := range []struct {
		name string
		f    operator.Filter
		want string
	}{
		{"all", operator.Filter{}, list("f", every) + " " + list("a", every)},
		{"pending", operator.Filter{State: request.Pending}, list("a", every)},
		{"pending, of no source", operator.Filter{State: request.Pending, Source: "shop"}, ""},
		{"a kind, whatever the state", operator.Filter{ErrorKind: "http_503"}, list("a", every)},
		{"rejected", operator.Filter{State: request.Rejected}, list("f", every)},
		{"rejected with a status", operator.Filter{State: request.Rejected, HTTPStatus: 400}, list("f", func(i int) bool { return i%4 == 0 })},
		{"rejected of a source", operator.Filter{State: request.Rejected, Source: "shop"}, list("f", func(i int) bool { return i%5 == 0 })},
		{"rejected of late", operator.Filter{State: request.Rejected, Since: 75 * time.Minute}, list("f", later)},
		{"settled of late", operator.Filter{Since: 75 * time.Minute}, list("f", later)},
		{"pending of late", operator.Filter{State: request.Pending, Since: time.Hour}, ""},
		{"cancelled", operator.Filter{State: request.Cancelled}, ""},
		{"named", operator.Filter{RequestIDs: []string{"f-2", "nobody", "a-3", "f-1"}}, "f-2 f-1 a-3"},
		{"for a person", operator.Filter{ForPerson: true}, ""},
		{"named with what no id can have", operator.Filter{RequestIDs: []string{"a-3\x00", "\xff", "f-1"}}, "f-1"},
		{"of a source that none can have", operator.Filter{Source: "\x00"}, ""},
		{"of a kind that none can have", operator.Filter{State: request.Rejected, ErrorKind: "\xff"}, ""},
	} {
		for _, size := range []int{1, 3, 20, 1000} {
			if got := pages(t, s, operator.Query{Filter: func(f operator.Filter) operator.Filter { f.Limit = size; return f }(tt.f)}); got != tt.want {
				t.Errorf("%s, %d a page:\n%s\nwant\n%s", tt.name, size, got, tt.want)
			}
		}
	}
}

// TestCursor: a cursor of another list, and one that nobody gave, are refused.
func TestCursor(t *testing.T) {
	t.Parallel()
	s := newRig(t)
	mustAdd(t, s, "a", 3)
	page, err := s.desk.Requests(t.Context(), operator.Query{Filter: operator.Filter{Limit: 1}})
	if err != nil || page.Next == "" {
		t.Fatal(page, err)
	}
	for _, cursor := range []string{"x", "....", "cmVjZWl2ZWQ", "cmVjZWl2ZWQuLQ", page.Next + "A", strings.Repeat("a", 5000)} {
		if _, err := s.desk.Requests(t.Context(), operator.Query{Cursor: cursor}); !errors.Is(err, operator.ErrCursor) {
			t.Errorf("%q: %v", cursor, err)
		}
	}
	if _, err := s.desk.Requests(t.Context(), operator.Query{Filter: operator.Filter{State: request.Rejected}, Cursor: page.Next}); !errors.Is(err, operator.ErrCursor) {
		t.Errorf("in another order: %v", err)
	}
	if _, _, err := s.desk.Acts(t.Context(), page.Next); !errors.Is(err, operator.ErrCursor) {
		t.Errorf("of acts: %v", err)
	}
	if _, _, err := s.desk.Malformed(t.Context(), page.Next); !errors.Is(err, operator.ErrCursor) {
		t.Errorf("of malformed messages: %v", err)
	}
}
