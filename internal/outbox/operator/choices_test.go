package operator_test

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"flexworker/internal/outbox/operator"
	"flexworker/internal/outbox/request"
	"flexworker/internal/testing/expect"
	"flexworker/internal/testing/pgtest"
)

// chosen are the choices as lines: the act, "unverified" where it has to be, and what becomes of the request.
func chosen(t *testing.T, s *rig, id string) string {
	t.Helper()
	choices, err := s.desk.Choices(t.Context(), id)
	if err != nil {
		t.Fatal(id, err)
	}
	lines := make([]string, len(choices))
	for i, c := range choices {
		lines[i] = c.Act + ": " + c.Becomes
		if c.Unverified {
			lines[i] = c.Act + ", unverified: " + c.Becomes
		}
	}
	return strings.Join(lines, "\n")
}

func TestChoices(t *testing.T) {
	t.Parallel()
	s := newRig(t)
	everyState(t, s)
	const (
		again     = "retry: It is sent again."
		published = "\nrepublish: It is published again."
	)
	for id, want := range map[string]string{
		"pending": "cancel: It is cancelled.",
		"sending": "",
		"uncertain": "resolve created: It is created under the sid that you give.\n" +
			"resolve absent, unverified: It is sent again: if it exists, its customer is contacted twice, by SMS.\n" +
			"cancel: It is uncertain, but never sent again: it ends as created where a lookup or a person finds it, else as cancelled.\nlookup: It is looked up now.",
		"created":   "republish: It is published again.",
		"rejected":  again + published,
		"abandoned": again + published,
		"expired":   "retry: It is sent; its expires_at has passed and no longer counts." + published,
		"cancelled": "retry: It is sent." + published,
		"faulty":    "republish: It is published again.",
	} {
		if got := chosen(t, s, id); got != want {
			t.Errorf("%s:\n%s\nwant:\n%s", id, got, want)
		}
	}
	if _, err := s.desk.Choices(t.Context(), "nobody"); !errors.Is(err, operator.ErrUnknown) {
		t.Error(err)
	}
}

// TestChoicesOfUncertain: what a lookup may still find is decided unverified, and what waits for an end or was
// cancelled is not sent again.
func TestChoicesOfUncertain(t *testing.T) {
	t.Parallel()
	s := newRig(t)
	mustAdd(t, s, "r", 1, keyed)
	uncertainAgain(t, s)
	pgtest.Exec(t, s.pool, `UPDATE outbox SET lookup_attribute = 'interaction_request'`)
	for _, c := range [][2]string{
		{`UPDATE outbox SET priority = 0`, "resolve absent, unverified: It is sent again"},
		{`UPDATE outbox SET for_person_since = now()`, "resolve absent: It is sent again"},
		{`UPDATE outbox SET ends_as = 'abandoned'`, "resolve absent: It is abandoned, the end that it waits for."},
		{`UPDATE outbox SET cancel_requested_at = now()`, "resolve absent: It is cancelled, and never sent again."},
	} {
		pgtest.Exec(t, s.pool, c[0])
		if got := chosen(t, s, "r-1"); !strings.Contains(got, c[1]) {
			t.Errorf("%s:\n%s", c[0], got)
		}
	}
	if err := s.resolve(t, "r-1", absent); err != nil {
		t.Fatal(err)
	}
	const want = "retry: It is looked up before it is sent again.\nretry, unverified: It is sent again unasked: if an attempt has created it, its customer is contacted twice, by SMS."
	if got := chosen(t, s, "r-1"); got != want {
		t.Error(got)
	}
}

// TestSentTwice: what a mistake does to the customer is said by the channel.
func TestSentTwice(t *testing.T) {
	t.Parallel()
	s := newRig(t)
	everyState(t, s)
	for channel, want := range map[string]string{
		`{"type":"voice"}`: "its customer is called twice.", `{"type":"whatsapp"}`: "its customer is contacted twice, by WhatsApp.",
		`{"type":"web"}`: "its customer is contacted twice, by web.", `{"type":17}`: "its customer is contacted twice, by 17.", `{}`: "its customer is contacted twice.", `"sms"`: "its customer is contacted twice.",
	} {
		pgtest.Exec(t, s.pool, `UPDATE outbox SET request = ('{"channel":' || $1 || '}')::json WHERE request_id = 'uncertain'`, channel)
		if got := chosen(t, s, "uncertain"); !strings.Contains(got, want) {
			t.Errorf("%s: %s", channel, got)
		}
	}
}

// leaving is what a change leaves. A count that a busy machine has cut for its time is made again.
func leaving(t *testing.T, s *rig, c operator.Change, f operator.Filter) (left operator.Left) {
	t.Helper()
	expect.Eventually(t, func() (err error) {
		if left, err = s.desk.Leaving(t.Context(), c, f); err != nil && !errors.Is(err, operator.ErrTooSlow) {
			t.Fatal(err)
		}
		return err
	})
	return left
}

// TestLeaving: of all that match, each is taken by a change, or left for a reason that is said.
func TestLeaving(t *testing.T) {
	t.Parallel()
	s := newRig(t)
	everyState(t, s)
	mustAdd(t, s, "erased", 1)
	pgtest.Exec(t, s.pool, `UPDATE outbox SET state = 'rejected', attempt = 1, due_at = NULL, error_kind = 'http_400', settled_at = now(), published_at = now(), erased_at = now() WHERE request_id = 'erased-1'`)
	n := pgtest.One[int](t, s.pool, `SELECT count(*) FROM outbox`)
	for _, c := range []struct {
		change operator.Change
		want   map[string]int
	}{
		{operator.ToRetry(false), map[string]int{"created: nothing is to be sent": 1, "being sent": 1, "uncertain: whether they exist is decided first": 1, "pending: a retry would send them no sooner": 1,
			"refused by the check before Flex, and would be again": 1, "erased: nobody knows what they asked": 1}},
		{operator.ToCancel(), map[string]int{"being sent": 1, "settled: created": 1, "settled: rejected": 3, "settled: abandoned": 1, "settled: expired": 1, "settled: cancelled": 1}},
		{operator.ToLookUp(), map[string]int{"pending, not uncertain": 1, "sending, not uncertain": 1, "created, not uncertain": 1, "rejected, not uncertain": 3, "abandoned, not uncertain": 1,
			"expired, not uncertain": 1, "cancelled, not uncertain": 1}},
		{operator.ToRepublish(), map[string]int{"not settled yet: there is no result": 3}},
	} {
		taken, err := s.desk.Matching(t.Context(), c.change, nil, operator.Filter{})
		if err != nil {
			t.Fatal(err)
		}
		left := leaving(t, s, c.change, operator.Filter{})
		if left.N+taken.N != n || left.More || !maps.Equal(left.Of, c.want) {
			t.Errorf("%s: of %d takes %d and leaves %+v", c.change.Name, n, taken.N, left)
		}
	}
	if left := leaving(t, s, operator.ToRetry(false), operator.Filter{State: request.Rejected}); left.N != 2 {
		t.Errorf("of the rejected: %+v", left)
	}
}

// TestLeavingIsBounded: what nobody waits for is not counted to its end, and a count that takes too long is given up.
func TestLeavingIsBounded(t *testing.T) {
	t.Parallel()
	s := newRig(t)
	mustAdd(t, s, "r", 1)
	pgtest.Exec(t, s.pool, `
		INSERT INTO outbox (request_id, source, state, request, due_at, stream_sequence, stream_time) SELECT n, 'crm', 'pending', '{}', now(), n, now() FROM generate_series(1, 10001) AS n`)
	if left := leaving(t, s, operator.ToRepublish(), operator.Filter{}); !left.More || left.N != 10_001 {
		t.Errorf("%+v", left)
	}
	tx, err := s.pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(t.Context()) }()
	if _, err := tx.Exec(t.Context(), `LOCK TABLE outbox IN ACCESS EXCLUSIVE MODE`); err != nil {
		t.Fatal(err)
	}
	if left, err := s.desk.Leaving(t.Context(), operator.ToRepublish(), operator.Filter{}); !errors.Is(err, operator.ErrTooSlow) {
		t.Errorf("of what is locked: %+v, %v", left, err)
	}
}

// TestPreviewBinds: an act that carries a preview's token takes what was shown, and nothing else.
func TestPreviewBinds(t *testing.T) {
	t.Parallel()
	s := newRig(t)
	abandon := func(ids ...string) {
		pgtest.Exec(t, s.pool, `UPDATE outbox SET state = 'abandoned', attempt = 1, due_at = NULL, error_kind = 'http_503', settled_at = clock_timestamp() WHERE request_id = ANY ($1)`, ids)
	}
	mustAdd(t, s, "old", 5)
	abandon("old-1", "old-2", "old-4")
	f := operator.Filter{State: request.Abandoned}
	shown, err := s.desk.Matching(t.Context(), operator.ToRetry(false), nil, f)
	if err != nil || shown.N != 3 {
		t.Fatal(shown, err)
	}
	mustAdd(t, s, "new", 1)
	abandon("new-1", "old-3")
	for name, c := range map[string]struct {
		change operator.Change
		filter operator.Filter
		token  string
	}{
		"another change":  {operator.ToRepublish(), f, shown.Token},
		"unverified":      {operator.ToRetry(true), f, shown.Token},
		"another filter":  {operator.ToRetry(false), operator.Filter{}, shown.Token},
		"no token":        {operator.ToRetry(false), f, "x"},
		"no base64":       {operator.ToRetry(false), f, "ä"},
		"an empty object": {operator.ToRetry(false), f, "e30"},
	} {
		c.filter.Preview = c.token
		if all, err := s.desk.Do(t.Context(), c.change, aTest, c.filter); !errors.Is(err, operator.ErrOtherPreview) || all.N != 0 {
			t.Errorf("%s: %v, %v", name, all, err)
		}
	}
	f.Preview = shown.Token
	if ids, err := s.retry(t.Context(), aTest, f); err != nil || !slices.Equal(ids, []string{"old-1", "old-2", "old-4"}) {
		t.Error(ids, err)
	}
	if ids, err := s.retry(t.Context(), aTest, f); err != nil || len(ids) != 0 {
		t.Error("done twice", ids, err)
	}
}

// TestPreviewOfFew: a limit counts what was shown: nothing moves up into the place of what another has taken meanwhile.
func TestPreviewOfFew(t *testing.T) {
	t.Parallel()
	s := newRig(t)
	mustAdd(t, s, "r", 4)
	f := operator.Filter{Limit: 2}
	shown, err := s.desk.Matching(t.Context(), operator.ToCancel(), nil, f)
	if err != nil || shown.N != 2 {
		t.Fatal(shown, err)
	}
	if _, err := s.cancel(t.Context(), aTest, operator.Filter{RequestIDs: []string{"r-1"}}); err != nil {
		t.Fatal(err)
	}
	f.Preview = shown.Token
	if ids, err := s.cancel(t.Context(), aTest, f); err != nil || !slices.Equal(ids, []string{"r-2"}) {
		t.Error(ids, err)
	}
	none, err := s.desk.Matching(t.Context(), operator.ToLookUp(), nil, operator.Filter{})
	if err != nil || none.N != 0 || none.Token == "" {
		t.Fatal(none, err)
	}
	uncertainAgain(t, s)
	if ids, err := s.do(t.Context(), operator.ToLookUp(), aTest, operator.Filter{Preview: none.Token}); err != nil || len(ids) != 0 {
		t.Error("nothing was shown", ids, err)
	}
}

// TestPreviewOfAge: an age is that at the time of the preview, also of what came before the newest that was shown.
func TestPreviewOfAge(t *testing.T) {
	t.Parallel()
	s := newRig(t)
	ids := mustAdd(t, s, "r", 2)
	pgtest.Exec(t, s.pool, `UPDATE outbox SET received_at = clock_timestamp() - interval '2 hours' WHERE request_id = 'r-2'`)
	var f operator.Filter
	var shown operator.Affected
	expect.Eventually(t, func() (err error) { // where r-1 is of that age before the preview is made, once more
		f.OlderThan = pgtest.One[time.Duration](t, s.pool, `SELECT clock_timestamp() - received_at + interval '1 second' FROM outbox WHERE request_id = 'r-1'`)
		if shown, err = s.desk.Matching(t.Context(), operator.ToCancel(), nil, f); err != nil {
			t.Fatal(err)
		}
		return expect.Is("shown", shown.N, 1)
	})
	pgtest.Exec(t, s.pool, `SELECT pg_sleep_until(received_at + $1) FROM outbox WHERE request_id = 'r-1'`, f.OlderThan)
	if now, err := s.desk.Matching(t.Context(), operator.ToCancel(), nil, f); err != nil || now.N != len(ids) {
		t.Fatal(now, err)
	}
	f.Preview = shown.Token
	if ids, err := s.cancel(t.Context(), aTest, f); err != nil || fmt.Sprint(ids) != "[r-2]" {
		t.Error(ids, err)
	}
}

// TestPreviewOfUncertain: what has become uncertain since the preview was not shown, and is not taken.
func TestPreviewOfUncertain(t *testing.T) {
	t.Parallel()
	s := newRig(t)
	mustAdd(t, s, "r", 3)
	uncertainAgain(t, s, "r-1")
	uncertainAgain(t, s, "r-3")
	f := operator.Filter{State: "uncertain"}
	all, err := s.desk.Matching(t.Context(), operator.ToCancel(), nil, f)
	if err != nil || all.N != 2 {
		t.Fatal(all, err)
	}
	uncertainAgain(t, s, "r-2") // an attempt of another lapses
	f.Preview = all.Token
	ids, err := s.cancel(t.Context(), aTest, f)
	if err != nil || len(ids) != 2 {
		t.Errorf("shown %v, took %v, %v", all.IDs, ids, err)
	}
}

// TestPreviewOfSending: what was being sent at the preview and is pending again was not shown.
func TestPreviewOfSending(t *testing.T) {
	t.Parallel()
	s := newRig(t)
	mustAdd(t, s, "r", 3)
	pgtest.Exec(t, s.pool, `UPDATE outbox SET state='sending', attempt = 1, due_at = NULL, leased_by = 'w', leased_until = now() + interval '1 hour' WHERE request_id = 'r-2'`)
	f := operator.Filter{Source: "crm"}
	all, err := s.desk.Matching(t.Context(), operator.ToCancel(), nil, f)
	if err != nil || all.N != 2 {
		t.Fatal(all, err)
	}
	pgtest.Exec(t, s.pool, `UPDATE outbox SET state='pending', due_at = now(), leased_by = NULL, leased_until = NULL, error_kind = 'http_429' WHERE request_id = 'r-2'`)
	f.Preview = all.Token
	ids, err := s.cancel(t.Context(), aTest, f)
	if err != nil || len(ids) != 2 {
		t.Errorf("shown %v, took %v, %v", all.IDs, ids, err)
	}
}
