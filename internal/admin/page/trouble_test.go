package page_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"flexworker/internal/admin/access"
	"flexworker/internal/outbox/operator"
	"flexworker/internal/testing/expect"
	"flexworker/internal/testing/pgtest"
)

// TestPostgresAway: the first screen says so, and what the worker says of itself. Nobody who is signed in is signed out.
func TestPostgresAway(t *testing.T) {
	t.Parallel()
	r := newRig(t, "")
	p := r.signIn(t, actToken, "ada")
	r.standing.Store(&away)
	r.pool.Close()
	r.page.Forget()
	page, status := p.get("")
	for _, want := range []string{"Postgres does not answer, since", "2026-11-22 11:58:00 UTC", "See whether Postgres runs", "gate: cannot be read", "Needs attention", "It cannot be read now: Postgres does not answer.", "It loads itself again every 5 seconds"} {
		if !strings.Contains(page, want) {
			t.Errorf("it does not say %q", want)
		}
	}
	if status != http.StatusOK || strings.Contains(page, `action="hold"`) {
		t.Errorf("%d\n%s", status, page)
	}
	page, status = p.post("hold", "why", "a test")
	if status != http.StatusServiceUnavailable || !strings.Contains(page, "look whether it was done before you do it again") {
		t.Errorf("an act: %d\n%s", status, page)
	}
}

// TestTooSlow: what takes too long to read says so in its own place: the filter, the other regions and the navigation stay.
func TestTooSlow(t *testing.T) {
	t.Parallel()
	r := newRig(t, "")
	r.stage(t)
	p := r.signIn(t, lookToken, "grace")
	tx, err := r.pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(t.Context())) }() // or a test that has failed waits for it with the pool
	if _, err := tx.Exec(t.Context(), `LOCK TABLE outbox`); err != nil {
		t.Fatal(err)
	}
	r.cutting(t, tx.Conn().PgConn().PID())
	page, status := p.get("requests?source=crm&state=rejected")
	for _, want := range []string{"This took too long to read and was given up", `value="crm"`, `selected value="rejected"`, "Sign out"} {
		if !strings.Contains(page, want) {
			t.Errorf("it lacks %q", want)
		}
	}
	if status != http.StatusOK {
		t.Errorf("%d\n%s", status, page)
	}
	expect.Eventually(t, func() error { // a session is shown once it has held its locks for a while
		r.page.Forget()
		page, _ = p.get("")
		for _, want := range []string{"1 of 3 replicas cannot work", "took too long to read", "Locks in Postgres", "worker-3"} {
			if !strings.Contains(page, want) {
				return fmt.Errorf("the first screen lacks %q\n%s", want, page)
			}
		}
		return nil
	})
	pgtest.Exec(t, tx, `LOCK TABLE outbox_gate`)
	r.page.Forget()
	if page, _ = p.get(""); !strings.Contains(page, "took too long to read") || strings.Contains(page, "could not be read") {
		t.Errorf("of a gate that is locked the first screen says\n%s", page)
	}
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	if page, _ = p.get("requests?source=crm&state=rejected"); !strings.Contains(page, "crm-4221-order") {
		t.Errorf("afterwards:\n%s", page)
	}
}

// cutting ends statements as a statement_timeout does, with the same error: those that wait for a lock of holder and no others, however
// slow this machine is.
func (r *rig) cutting(t testing.TB, holder uint32) {
	t.Helper()
	ctx, end := context.WithCancel(t.Context())
	var cutting sync.WaitGroup
	cutting.Go(func() {
		again := time.NewTicker(20 * time.Millisecond)
		defer again.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-again.C:
				_, _ = r.pool.Exec(ctx, `
					SELECT pg_cancel_backend(pid) FROM pg_stat_activity
					 WHERE datname = current_database() AND wait_event_type = 'Lock' AND $1 = ANY (pg_blocking_pids(pid))`, int32(holder)) // the next tick does it again
			}
		}
	})
	t.Cleanup(func() {
		end()
		cutting.Wait()
	})
}

// another is a pool on the same tables whose sessions have this setting.
func (r *rig) another(t *testing.T, name, value string) *pgxpool.Pool {
	t.Helper()
	config, err := pgxpool.ParseConfig(r.pool.Config().ConnString())
	if err != nil {
		t.Fatal(err)
	}
	config.ConnConfig.RuntimeParams[name] = value
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool
}

// TestLocked: what waits for a lock says for whose, and that nothing was changed.
func TestLocked(t *testing.T) {
	t.Parallel()
	r := newRig(t, "")
	r.add(t, "crm", "crm-1", "Ada Lovelace", 1)
	impatient := r.serve(t, "", operator.NewDesk(r.another(t, "lock_timeout", "300ms"), operator.Caller{}, nil))
	p := impatient.signIn(t, actToken, "ada")
	tx, err := r.pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(t.Context())) }() // or a test that has failed waits for it with the pool
	var pid int
	if err := tx.QueryRow(t.Context(), `WITH held AS MATERIALIZED (SELECT FROM outbox_gate FOR UPDATE) SELECT pg_backend_pid() FROM held`).Scan(&pid); err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(t.Context(), `LOCK TABLE outbox`); err != nil {
		t.Fatal(err)
	}
	holder := fmt.Sprintf("pid %d", pid)
	expect.Eventually(t, func() error { // a session is named once it has held its locks for a moment
		page, status := p.get("requests")
		if status != http.StatusOK || !strings.Contains(page, "it waited for "+holder) {
			return fmt.Errorf("%d: %s", status, page)
		}
		return nil
	})
	page, status := p.post("hold", "why", "a test")
	if status != http.StatusServiceUnavailable || !strings.Contains(page, "It waited for "+holder) {
		t.Errorf("an act: %d\n%s", status, page)
	}
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := r.acts(t); got != "" {
		t.Errorf("recorded: %s", got)
	}
}

// TestPulse: it answers from memory, however many ask, tells what has changed, and says in a word where nothing has.
func TestPulse(t *testing.T) {
	t.Parallel()
	r := newRig(t, "")
	r.add(t, "crm", "crm-1", "Ada Lovelace", 1)
	p := r.signIn(t, lookToken, "grace")
	get := func(address, etag string) (int, string, string) {
		t.Helper()
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, r.url+address, nil)
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("If-None-Match", etag)
		response, err := p.client.Do(request)
		text, status := p.read(response, err)
		return status, text, response.Header.Get("ETag")
	}
	r.page.Forget()
	before := r.reads.Load()
	var all sync.WaitGroup
	for range 40 {
		all.Go(func() { get("pulse?id=crm-1", "") })
	}
	all.Wait()
	if n := r.reads.Load() - before; n > 10 {
		t.Errorf("40 pulses read %d times", n)
	}
	_, first, etag := get("pulse?id=crm-1", "")
	r.page.Stay() // what is known counts until it is forgotten
	if status, text, _ := get("pulse?id=crm-1", etag); status != http.StatusNotModified || text != "" {
		t.Errorf("with the tag of what it said before: %d %s", status, text)
	}
	pgtest.Exec(t, r.pool, `UPDATE outbox SET priority = 9`)
	r.page.Forget()
	status, second, _ := get("pulse?id=crm-1", etag)
	if status != http.StatusOK || second == first {
		t.Errorf("after a change: %d %s, before %s", status, second, first)
	}
	if status, _, _ := get("pulse?id=none", ""); status != http.StatusOK {
		t.Errorf("of a request that there is not: %d", status)
	}
	nobody := r.signIn(t, "", "")
	if _, status := nobody.get("pulse"); status != http.StatusUnauthorized {
		t.Errorf("nobody: %d", status)
	}
}

// TestOneExport: a worker makes one export at a time, so that exports leave a connection to those who look.
func TestOneExport(t *testing.T) {
	t.Parallel()
	r := newRig(t, "")
	r.add(t, "crm", "crm-1", "Ada Lovelace", 1)
	p := r.signIn(t, lookToken, "grace")
	end := r.page.Exports()
	if text, status := p.get("export"); status != http.StatusServiceUnavailable || !strings.Contains(text, "Another export is under way") {
		t.Errorf("%d\n%s", status, text)
	}
	end()
	for range 2 {
		if text, status := p.get("export"); status != http.StatusOK || !strings.Contains(text, "crm-1") {
			t.Errorf("%d\n%s", status, text)
		}
	}
}

// TestHungUp: a browser that goes before its answer is no trouble that anybody is warned of.
func TestHungUp(t *testing.T) {
	t.Parallel()
	r := newRig(t, "").trusting(t)
	r.add(t, "crm", "crm-1", "Ada Lovelace", 1)
	gone, hangUp := context.WithCancel(t.Context())
	hangUp()
	for _, address := range []string{"", "requests", "request?id=crm-1", "decide?id=crm-1", "acts", "export"} {
		q := httptest.NewRequestWithContext(gone, http.MethodGet, "/"+address, nil)
		q.RemoteAddr = "127.0.0.1:1"
		q.Header.Set("X-Forwarded-User", "ada")
		q.Header.Set("X-Forwarded-Groups", access.GroupActs)
		r.page.ServeHTTP(httptest.NewRecorder(), q)
	}
	if log := r.log.String(); strings.Contains(log, "level=WARN") {
		t.Error(log)
	}
}
