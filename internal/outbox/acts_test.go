package outbox

import (
	"errors"
	"fmt"
	"os"

	"flexworker/internal/outbox/gate"
	"flexworker/internal/outbox/operator"
	"flexworker/internal/outbox/request"

	osexec "os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"flexworker/internal/flex"
)

// ofAttempt is an act that speaks of an attempt.
func ofAttempt(attempt int, a operator.Act) operator.Act {
	a.Attempt = &attempt
	return a
}

// uncertainAgain claims a request and lets its lease lapse.
func uncertainAgain(t *testing.T, s *Store) {
	t.Helper()
	mustClaim(t, s, 1)
	exec(t, s.pool, `UPDATE outbox SET leased_until = now() - interval '1 second' WHERE state = 'sending'`)
	if n, err := s.lapse(t.Context()); err != nil || n != 1 {
		t.Fatal(n, err)
	}
}

// TestActOfAnotherAttempt: Ann and Bob have one list. Ann's decision about attempt 1 leads to
// attempt 2; what Bob typed for attempt 1 is not obeyed for attempt 2, whichever act it is.
func TestActOfAnotherAttempt(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	mustAdd(t, s, "a", 1)
	uncertainAgain(t, s)
	bob := ofAttempt(1, operator.Act{Who: "bob", Why: "the list"})
	if err := s.desk().ResolveAbsent(t.Context(), ofAttempt(1, ann), "a-1"); err != nil {
		t.Fatal(err)
	}
	uncertainAgain(t, s)
	before := one[string](t, s.pool, `SELECT o::text FROM outbox o`)
	if err := s.desk().ResolveAbsent(t.Context(), bob, "a-1"); !errors.Is(err, operator.ErrOtherAttempt) {
		t.Errorf("absent: %v", err)
	}
	if err := s.desk().ResolveCreated(t.Context(), bob, "a-1", sidB, flex.Outcome{}); !errors.Is(err, operator.ErrOtherAttempt) {
		t.Errorf("created: %v", err)
	}
	for _, c := range []operator.Change{operator.ToCancel(), operator.ToLookUp(), operator.ToRetry(false), operator.ToRetry(true)} {
		if all, err := s.desk().Matching(t.Context(), c, bob, operator.Filter{RequestIDs: []string{"a-1"}}); err != nil || all.N != 0 {
			t.Errorf("%s would change %+v, %v", c.Name, all, err)
		}
		if all, err := s.desk().Do(t.Context(), c, bob, operator.Filter{RequestIDs: []string{"a-1"}}); err != nil || all.N != 0 {
			t.Errorf("%s changed %+v, %v", c.Name, all, err)
		}
	}
	if now := one[string](t, s.pool, `SELECT o::text FROM outbox o`); now != before {
		t.Errorf("it became %s", now)
	}
	if got := one[string](t, s.pool, `SELECT string_agg(who || ' ' || attempt, ' ') FROM outbox_acts`); got != "ann@desk 1" {
		t.Errorf("recorded %s", got)
	}
	d, err := s.desk().Show(t.Context(), "a-1")
	if got := d.Since(1); err != nil || !strings.HasPrefix(got, "resolve absent by ann@desk at ") || !strings.Contains(got, "attempt 2 by ") {
		t.Errorf("since then: %s, %v", got, err)
	}
	if got := d.Since(7); got != "there is no attempt 7: the latest is attempt 2" {
		t.Error(got)
	}
	if err := s.desk().ResolveAbsent(t.Context(), ofAttempt(2, bob), "a-1"); err != nil {
		t.Error(err)
	}
}

// TestRetryOfUndecided: what may exist is looked up before it is sent again, however it
// ended; --unverified sends it, and remembers that an attempt was never decided.
func TestRetryOfUndecided(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, set  string
		unverified bool
		want       request.State
		what       string
		undecided  bool
	}{
		{"abandoned by UNCERTAIN_POLICY=fail", `state = 'abandoned', error_kind = 'undecided'`, false, request.Uncertain, operator.AskedFirst, false},
		{"the same, unverified", `state = 'abandoned', error_kind = 'undecided'`, true, request.Pending, operator.SentAgain, true},
		{"refused after an undecided attempt", `state = 'rejected', error_kind = 'http_400', undecided = true`, false, request.Uncertain, operator.AskedFirst, true},
		{"expired after an undecided attempt", `state = 'expired', error_kind = 'expired', undecided = true`, false, request.Uncertain, operator.AskedFirst, true},
		{"cancelled while it was uncertain", `state = 'cancelled', error_kind = 'undecided', cancel_requested_at = now()`, false, request.Uncertain, operator.AskedFirst, false},
		{"proved absent and used up", `state = 'abandoned', error_kind = 'attempts_used_up'`, false, request.Pending, operator.SentAgain, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := newStore(t)
			mustAdd(t, s, "a", 1)
			uncertainAgain(t, s)
			exec(t, s.pool, `UPDATE outbox SET due_at = NULL, lookups = 9, settled_at = now(), published_at = now(), resolved_by = 'lookup', `+tt.set)
			all, err := s.desk().Matching(t.Context(), operator.ToRetry(tt.unverified), ann, operator.Filter{})
			if err != nil || all.N != 1 || all.Of[tt.what] != 1 {
				t.Errorf("the preview says %+v, %v", all, err)
			}
			if all, err = s.desk().Do(t.Context(), operator.ToRetry(tt.unverified), ofAttempt(1, ann), operator.Filter{RequestIDs: []string{"a-1"}}); err != nil || all.N != 1 || all.Of[tt.what] != 1 {
				t.Fatal(all, err)
			}
			d, err := s.desk().Show(t.Context(), "a-1")
			if err != nil || d.State != tt.want || d.DueAt == nil || d.DueAt.After(d.Now) || d.Undecided != tt.undecided || d.Settlement != 2 || d.Spared != 1 ||
				d.ForPersonSince != nil || d.CancelRequestedAt != nil || d.SettledAt != nil || d.ResolvedBy != nil {
				t.Errorf("it became %+v, %v", d, err)
			}
			if tt.want == request.Uncertain && (d.Lookups != 0 || d.UncertainSince == nil) {
				t.Errorf("no fresh lookup: %+v", d)
			}
		})
	}
}

// TestRetryOfPending: what waits is due now, and not sooner than its sender has asked for.
func TestRetryOfPending(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	mustAdd(t, s, "a", 2)
	exec(t, s.pool, `UPDATE outbox SET due_at = now() + interval '1 hour', attempt = 1, error_kind = 'http_429'`)
	exec(t, s.pool, `UPDATE outbox SET request = '{"not_before":"2100-01-01T09:00:00Z"}', due_at = '2100-01-01T09:00:00Z' WHERE request_id = 'a-2'`)
	all, err := s.desk().Do(t.Context(), operator.ToRetry(false), ann, operator.Filter{RequestIDs: []string{"a-1", "a-2"}})
	if err != nil || !slices.Equal(all.IDs, []string{"a-1"}) || all.Of[operator.DueNow] != 1 {
		t.Fatal(all, err)
	}
	if d, err := s.desk().Show(t.Context(), "a-1"); err != nil || d.State != request.Pending || d.DueAt.After(d.Now) || d.Settlement != 1 || d.Spared != 0 {
		t.Errorf("%+v, %v", d, err)
	}
}

// TestCancelKeepsTheReason: a retry still finds what was cancelled by why it had failed.
func TestCancelKeepsTheReason(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	mustAdd(t, s, "a", 2)
	exec(t, s.pool, `UPDATE outbox SET attempt = 1, error_kind = 'http_403', error_message = 'no access to WS1', http_status = 403 WHERE request_id = 'a-1'`)
	for range 2 { // the reason does not grow
		if ids, err := s.cancel(t.Context(), ann, operator.Filter{}); err != nil || len(ids) != 2 {
			t.Fatal(ids, err)
		}
		for id, want := range map[string]string{"a-1": "http_403 cancelled by an operator; before: no access to WS1", "a-2": "cancelled cancelled by an operator"} {
			if r := s.row(t, id); *r.ErrorKind+" "+*r.ErrorMessage != want || r.State != request.Cancelled || deref(r.ResolvedBy) != "operator" {
				t.Errorf("%s: %s %s, want %s", id, *r.ErrorKind, *r.ErrorMessage, want)
			}
		}
		if ids, err := s.retry(t.Context(), ann, operator.Filter{State: request.Cancelled, ErrorKind: "http_403"}); err != nil || !slices.Equal(ids, []string{"a-1"}) {
			t.Fatal(ids, err)
		}
		if ids, err := s.retry(t.Context(), ann, operator.Filter{State: request.Cancelled}); err != nil || !slices.Equal(ids, []string{"a-2"}) {
			t.Fatal(ids, err)
		}
	}
}

// TestCancelOfUncertain: it stays uncertain and keeps its next lookup; once it is said to
// be absent it ends as cancelled, unsent, and what is found is adopted.
func TestCancelOfUncertain(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	mustAdd(t, s, "a", 2)
	for range 2 {
		uncertainAgain(t, s)
	}
	due := s.row(t, "a-1").DueIn
	all, err := s.desk().Do(t.Context(), operator.ToCancel(), ann, operator.Filter{})
	if err != nil || all.N != 2 || all.Of[operator.NeverResent] != 2 {
		t.Fatal(all, err)
	}
	if r := s.row(t, "a-1"); r.State != request.Uncertain || r.DueIn == nil || *r.DueIn > *due || r.SettledAt != nil || deref(r.ErrorKind) != "lapsed" {
		t.Errorf("it became %+v", r)
	}
	if ids, err := s.cancel(t.Context(), ann, operator.Filter{}); err != nil || len(ids) != 0 {
		t.Errorf("once more: %v, %v", ids, err)
	}
	if err := s.desk().ResolveAbsent(t.Context(), ann, "a-1"); err != nil {
		t.Fatal(err)
	}
	if r := s.row(t, "a-1"); r.State != request.Cancelled || r.SettledAt == nil || deref(r.ResolvedBy) != "operator" || !strings.HasPrefix(deref(r.ErrorMessage), "cancelled by an operator") {
		t.Errorf("said to be absent it became %+v", r)
	}
	if err := s.desk().ResolveCreated(t.Context(), ann, "a-2", sidB, flex.Outcome{}); err != nil {
		t.Fatal(err)
	}
	if r := s.row(t, "a-2"); r.State != request.Created || deref(r.InteractionSID) != sidB {
		t.Errorf("found it became %+v", r)
	}
	mustClaim(t, s, 0)
}

// TestReleaseMakesDue: what had met the 429 behind a pause does not wait for the rest of it
// once a person opens the gate; what waits for another reason does, and so does what meets
// a new refusal.
func TestReleaseMakesDue(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	mustAdd(t, s, "limited", releaseMost+3)
	mustAdd(t, s, "later", 3, func(e *request.Event) { e.Sequence += 5000 })
	exec(t, s.pool, `UPDATE outbox SET attempt = 1, due_at = now() + interval '9 minutes', error_kind = 'http_429', http_status = 429 WHERE request_id LIKE 'limited-%'`)
	exec(t, s.pool, `UPDATE outbox SET attempt = 1, due_at = now() + interval '9 minutes', error_kind = 'dial' WHERE request_id LIKE 'later-%'`)
	exec(t, s.pool, `UPDATE outbox_gate SET paused_until = now() + interval '10 minutes', reason = 'HTTP 429'`)
	if _, err := s.desk().Release(t.Context(), ann); err != nil {
		t.Fatal(err)
	}
	if g := readGate(t, s); g.State != gate.Open {
		t.Errorf("the gate is %+v", g)
	}
	if n := one[int](t, s.pool, `SELECT count(*) FROM outbox WHERE due_at <= now() AND request_id LIKE 'limited-%'`); n != releaseMost+3 {
		t.Errorf("%d are due", n)
	}
	if n := one[int](t, s.pool, `SELECT count(*) FROM outbox WHERE due_at <= now() AND request_id LIKE 'later-%'`); n != 0 {
		t.Errorf("%d are due that did not wait for the gate", n)
	}
}

// TestLookUpNow: a lookup is due at once, also of what waits for a person.
func TestLookUpNow(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	mustAdd(t, s, "a", 2)
	uncertainAgain(t, s)
	uncertainAgain(t, s)
	exec(t, s.pool, `UPDATE outbox SET due_at = CASE request_id WHEN 'a-1' THEN now() + interval '10 minutes' END, for_person_since = now()`)
	if all, err := s.desk().Do(t.Context(), operator.ToLookUp(), ann, operator.Filter{}); err != nil || all.N != 2 {
		t.Fatal(all, err)
	}
	if n := one[int](t, s.pool, `SELECT count(*) FROM outbox WHERE due_at <= now() AND state = 'uncertain' AND for_person_since IS NOT NULL`); n != 2 {
		t.Errorf("%d are looked up now", n)
	}
	if got := acts(t, s); got != "ann@desk a test lookup a-1 uncertain; ann@desk a test lookup a-2 uncertain" {
		t.Errorf("recorded %s", got)
	}
}

// TestPrintedCommandsSurviveTheShell: what explain and outbox_attention print is pasted into
// a real shell, with ids that their sender chose to do harm.
func TestPrintedCommandsSurviveTheShell(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "worker"), []byte("#!/bin/sh\nprintf '%s\\0' \"$@\"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	read := func(command string) []string {
		cmd := shell(dir, command)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("sh -c %q: %v: %s", command, err, out)
		}
		return strings.Split(strings.TrimSuffix(string(out), "\x00"), "\x00")
	}
	ids := []string{"u;touch gone", "-77", "--absent", "it's", "'; touch gone '", `"$(touch gone)"`, "`touch gone`", "$HOME", "*", "a  b", `\`, `'\''`, "!!", "Zoë 日本", "plain-1"}
	for i, id := range ids {
		e := event(id, uint64(i+1))
		if _, err := s.Add(t.Context(), e); err != nil {
			t.Fatal(id, err)
		}
	}
	exec(t, s.pool, `UPDATE outbox SET state = 'uncertain', attempt = 3, due_at = NULL, attempt_began_at = now(), uncertain_since = now(), for_person_since = now(), error_kind = 'timeout', error_message = E'a\nb\u001b[2J'`)
	for _, id := range ids {
		command := one[string](t, s.pool, `SELECT command FROM outbox_attention WHERE id = $1`, id)
		if got := read(command); !slices.Equal(got, []string{"explain", "--", id}) {
			t.Errorf("outbox_attention's %s is read as %q", command, got)
		}
		text, err := s.desk().Explain(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		var got [][]string
		for line := range strings.Lines(text) {
			if strings.HasPrefix(line, "    ") {
				got = append(got, read(line))
			}
		}
		want := [][]string{{"resolve", "--created", "KD...", "--attempt", "3", "--why", "...", "--", id}, {"resolve", "--absent", "--unverified", "--attempt", "3", "--why", "...", "--", id}}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("explain prints %q, want %q", got, want)
		}
		if strings.ContainsAny(text, "\x1b\x00\r") || strings.Count(text, "\n") != 4 {
			t.Errorf("explain prints %q", text)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "gone")); err == nil {
		t.Error("a pasted command did what a sender wanted")
	}
}

func shell(dir, command string) *osexec.Cmd {
	cmd := osexec.Command("sh", "-c", command)
	cmd.Env, cmd.Dir = []string{"PATH=" + dir + ":/usr/bin:/bin", "HOME=/root"}, dir
	return cmd
}

// TestRetrySaysWhenAndWhether: the preview of a retry says that a not_before still counts, that
// a deadline that passed does not, and claims of nothing unsent that it is sent again.
func TestRetrySaysWhenAndWhether(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	for _, c := range []struct{ set, want string }{
		{`request = '{"not_before":"2099-01-01T00:00:00Z"}', state = 'cancelled', error_kind = 'cancelled'`, "sent, due 2099-01-01T00:00:00Z, its not_before"},
		{`state = 'cancelled', error_kind = 'cancelled', attempt = 1, spared = 0`, "sent again"},
		{`state = 'expired', error_kind = 'expired', expires_at = now() - interval '1 hour'`, "sent; its expires_at has passed and no longer counts"},
	} {
		exec(t, s.pool, `DELETE FROM outbox`)
		exec(t, s.pool, `INSERT INTO outbox (request_id, source, state, request, due_at, stream_sequence, stream_time) VALUES ('r', 's', 'pending', '{}', now(), 1, now())`)
		exec(t, s.pool, `UPDATE outbox SET due_at = NULL, settled_at = now(), resolved_by = 'operator', error_message = 'x', lookup_key = repeat('a', 32), lookup_attribute = 'a', attempt_began_at = now(), uncertain_since = now(), `+c.set)
		all, err := s.desk().Matching(t.Context(), operator.ToRetry(false), operator.Act{}, operator.Filter{RequestIDs: []string{"r"}})
		if err != nil || all.Of[c.want] != 1 {
			t.Errorf("%s: %v, %+v, want %q", c.set, err, all.Of, c.want)
		}
	}
}

// TestReleaseForgetsWhyItWasShut: an open gate has no reason, and holds in a row keep one
// earlier reason, not all.
func TestReleaseForgetsWhyItWasShut(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	for _, why := range []string{"one", "two", "three"} {
		if _, err := s.desk().Hold(t.Context(), operator.Act{Who: "ann", Why: why}); err != nil {
			t.Fatal(err)
		}
	}
	if g := readGate(t, s); g.Reason != "three; before: two" {
		t.Error(g.Reason)
	}
	if _, err := s.desk().Release(t.Context(), operator.Act{Who: "ann", Why: "over"}); err != nil {
		t.Fatal(err)
	}
	var reason *string
	if err := s.pool.QueryRow(t.Context(), `SELECT reason FROM outbox_gate`).Scan(&reason); err != nil || reason != nil {
		t.Errorf("%v: an open gate says %v", err, reason)
	}
}

// releaseMost is how many requests a release makes due in one transaction.
const releaseMost = 1000
