package main

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"flexworker/internal/consumer"
	"flexworker/internal/testing/expect"
	"flexworker/internal/testing/flextest"
	"flexworker/internal/testing/natstest"
)

// A right is what a NATS user may do.
type right struct{ publish, subscribe []string }

func (r right) with(more right) right {
	return right{slices.Concat(r.publish, more.publish), slices.Concat(r.subscribe, more.subscribe)}
}

// rights reads from docs/operating.md, and of services from docs/sending.md, what they say is enough, so that the pages
// cannot drift: the grants of Postgres, and who may do what at NATS.
func rights(t *testing.T) (grants []string, users map[string]right) {
	t.Helper()
	quoted := regexp.MustCompile("`([^`]+)`")
	subjects := func(cell string) (list []string) {
		for _, m := range quoted.FindAllStringSubmatch(cell, -1) {
			list = append(list, m[1])
		}
		return list
	}
	users = map[string]right{}
	for _, page := range []string{"docs/operating.md", "docs/sending.md"} {
		text, err := os.ReadFile("../../" + page)
		if err != nil {
			t.Fatal(err)
		}
		_, section, ok := strings.Cut(string(text), "\n## Permissions\n")
		if !ok {
			t.Fatalf("%s has no section Permissions", page)
		}
		section, _, _ = strings.Cut(section, "\n## ")
		grants = append(grants, regexp.MustCompile(`(?m)^    GRANT .*;$`).FindAllString(section, -1)...)
		for line := range strings.Lines(section) {
			if cells := strings.Split(line, "|"); len(cells) == 5 && strings.Contains(line, "`") {
				users[strings.TrimSpace(cells[1])] = right{subjects(cells[2]), subjects(cells[3])}
			}
		}
	}
	if len(grants) == 0 || len(users) != 10 {
		t.Fatalf("the permissions in docs/operating.md and docs/sending.md cannot be read: %d grants, %d users", len(grants), len(users))
	}
	return grants, users
}

// of is what the table says for these rows together.
func of(t *testing.T, users map[string]right, rows ...string) (all right) {
	t.Helper()
	for _, row := range rows {
		r, ok := users[row]
		if !ok {
			t.Fatalf("neither docs/operating.md nor docs/sending.md says anything of %q", row)
		}
		all = all.with(r)
	}
	return all
}

// logs is what a replica wrote, while it may still write.
type logs struct {
	mu  sync.Mutex
	all bytes.Buffer
}

func (l *logs) Write(line []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.all.Write(line)
}

func (l *logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.all.String()
}

// poorRig is a world in which the worker may do what these lists say and no more.
// What belongs to others is there: schema, streams, consumer.
func poorRig(t *testing.T, grants, publish, subscribe []string) (*rig, Config) {
	t.Helper()
	const user, password = "worker", "a-password"
	dsn := migrated.NewDSN(t)
	r := &rig{t: t, dsn: dsn, flex: flextest.New(t),
		nats: natstest.New(t, natstest.Options{Users: []natstest.User{{Name: user, Password: password, Publish: publish, Subscribe: subscribe}}})}
	var err error
	if r.pool, err = pgxpool.New(t.Context(), dsn); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.pool.Close)
	// A role belongs to the server, which other tests share: one of its own name each.
	role := "poor_" + regexp.MustCompile(`\W`).ReplaceAllString(r.pool.Config().ConnConfig.Database, "_")
	statements := []string{`CREATE ROLE ` + role + ` LOGIN PASSWORD '` + password + `'`}
	for _, g := range grants {
		statements = append(statements, strings.Replace(g, " TO worker;", " TO "+role, 1))
	}
	for _, sql := range statements {
		if _, err := r.pool.Exec(t.Context(), sql); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
	t.Cleanup(func() {
		if _, err := r.pool.Exec(context.Background(), `DROP OWNED BY `+role+`; DROP ROLE `+role); err != nil {
			t.Errorf("drop the role: %v", err)
		}
	})
	if r.js, err = jetstream.New(r.nats.Connect(t), natstest.Unhurried()); err != nil {
		t.Fatal(err)
	}
	expect.Eventually(t, func() error {
		_, err := r.js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "INTERACTION_RESULTS", Subjects: []string{"interactions.results.>"}})
		return err
	})
	names := consumer.Names{Stream: "INTERACTION_REQUESTS", Subject: "interactions.requests", Consumer: "interaction-worker", Create: true}
	expect.Eventually(t, func() error { _, err := names.Open(t.Context(), r.js); return err }) // it asks as often as a worker does
	cfg := r.unhurried()
	poor, err := url.Parse(dsn)
	if err != nil || poor.Host == "" {
		t.Fatalf("the address of the database is no URL: %v", err)
	}
	poor.User = url.UserPassword(role, password)
	cfg.DatabaseURL, cfg.Migrate, cfg.NATSURL = secretOf(poor.String()), false, natsURL(r.nats.URLFor(user))
	return r, cfg
}

// startLogged is start with all that is logged kept.
func (r *rig) startLogged(cfg Config) *logs {
	out := &logs{}
	ctx, cancel := context.WithCancel(context.WithoutCancel(r.t.Context()))
	done := make(chan error, 1)
	go func() { done <- run(ctx, cfg, slog.New(slog.NewTextHandler(out, nil)), nil) }()
	r.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			fmt.Fprintln(out, "run:", err)
		}
		if r.t.Failed() {
			r.t.Logf("it wrote:\n%s", out)
		}
	})
	return out
}

var denied = regexp.MustCompile(`(?i)permission|denied|violation|42501`)

// TestLeastPermissions: what docs/operating.md lists is enough for all that a worker does.
func TestLeastPermissions(t *testing.T) {
	t.Parallel()
	grants, users := rights(t)
	worker := of(t, users, "worker")
	r, cfg := poorRig(t, grants, worker.publish, worker.subscribe)
	cfg.AdminToken = secretOf("a-token-that-acts-000000")
	in := r.read()
	out := r.startLogged(cfg)
	r.says(cfg.AdminAddr, "ok", 200)
	r.flex.Script("p-3", flextest.CreateThenReset) // is looked up and found
	r.flex.Script("p-4", flextest.Reset)           // is looked up and proved absent
	r.flex.Script("p-5", flextest.Status(400))
	r.flex.Script("p-6", flextest.Status(429).RetryAfter("1"))
	r.send("p", 0, 30)
	if _, err := r.js.Publish(t.Context(), "interactions.requests.crm", []byte("hello")); err != nil {
		t.Fatal(err)
	}
	if _, err := r.js.Publish(t.Context(), "interactions.requests.shop", requestOf("p-1")); err != nil {
		t.Fatal(err)
	}
	expect.Eventually(t, func() error {
		n := in.subjects()
		if n["interactions.results.created.crm"] != 29 || n["interactions.results.rejected.crm"] != 1 ||
			n["interactions.results.malformed.crm"] != 1 || n["interactions.results.created.shop"] != 1 {
			return fmt.Errorf("%v", n)
		}
		return nil
	})
	if n := len(r.flex.Ledger()); n != 29 || len(r.flex.Duplicates()) != 0 {
		t.Errorf("%d created, twice %v", n, r.flex.Duplicates())
	}
	// What comes once a minute, and what people type with the same address.
	poor, err := pgxpool.New(t.Context(), cfg.DatabaseURL.Value())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(poor.Close)
	for _, table := range []string{"outbox_attempts", "outbox_repeats", "outbox_malformed", "outbox"} {
		if _, err := poor.Exec(t.Context(), `DELETE FROM `+table+` WHERE false`); err != nil {
			t.Errorf("retention: %v", err)
		}
	}
	env := r.environment("DATABASE_URL=" + cfg.DatabaseURL.Value())
	for path, body := range map[string]string{"/gate/hold": `{"why":"x"}`, "/gate/release": `{"why":"x"}`, "/requests/p-2/republish": `{"why":"x"}`, "/acts:preview": `{"act":"cancel","filter":{}}`} {
		if status, _, got := r.api(cfg.AdminAddr, cfg.AdminToken.Value(), http.MethodPost, path, body, "Idempotency-Key", path); status != http.StatusOK {
			t.Errorf("%s: %d %v", path, status, got)
		}
	}
	for _, path := range []string{"/gate", "/fleet", "/attention", "/requests", "/requests/p-1", "/requests/p-1/explain", "/acts", "/malformed"} {
		if status, _, got := r.api(cfg.AdminAddr, cfg.AdminToken.Value(), http.MethodGet, path, ""); status != http.StatusOK {
			t.Errorf("%s: %d %v", path, status, got)
		}
	}
	for _, line := range []string{"status", "list", "show p-1", "explain p-5", "audit --tables-only", "hold --why x", "release --why x", "retry p-5 --why x", "republish p-1 --why x", "migrate status"} {
		if status, _, errs := r.try(env, strings.Fields(line)...); status != 0 {
			t.Errorf("worker %s: status %d: %s", line, status, errs)
		}
	}
	// p-2 was answered, and nobody has published it again since. The mark may come after the result.
	expect.Eventually(t, func() error {
		return expect.Is("marked", r.count(`SELECT count(*) FROM outbox WHERE request_id = 'p-2' AND published_at IS NOT NULL`), 1)
	})
	if status, _, errs := r.try(env, "erase", "p-2", "--why", "x", "--yes"); status != 0 {
		t.Errorf("worker erase: status %d: %s", status, errs)
	}
	// And no more than that: what nothing uses is not granted.
	var more []string
	if err := r.pool.QueryRow(t.Context(), `
		SELECT coalesce(array_agg(table_name || ' ' || privilege_type), '{}') FROM information_schema.role_table_grants
		 WHERE grantee = $1 AND (table_name = 'outbox_acts' AND privilege_type NOT IN ('SELECT', 'INSERT')
		    OR table_name = 'outbox_attempts' AND privilege_type NOT IN ('SELECT', 'INSERT', 'DELETE')
		    OR table_name = 'outbox_gate' AND privilege_type NOT IN ('SELECT', 'UPDATE')
		    OR table_name IN ('outbox_migrations', 'outbox_attention', 'outbox_backlog', 'outbox_failures', 'outbox_funnel') AND privilege_type <> 'SELECT'
		    OR privilege_type NOT IN ('SELECT', 'INSERT', 'UPDATE', 'DELETE'))`, poor.Config().ConnConfig.User).Scan(&more); err != nil {
		t.Fatal(err)
	}
	if len(more) > 0 {
		t.Errorf("docs/operating.md grants what nothing needs: %v", more)
	}
	for line := range strings.Lines(out.String()) {
		if denied.MatchString(line) {
			t.Errorf("logged: %s", line)
		}
	}
	r.says(cfg.AdminAddr, "ok", 200)
}

// TestOnePermissionLess: what is missing is seen: in the log, and on /readyz.
func TestOnePermissionLess(t *testing.T) {
	t.Parallel()
	grants, users := rights(t)
	worker := of(t, users, "worker")
	publish, subscribe := worker.publish, worker.subscribe
	less := func(list []string, part string) []string { t.Helper(); return without(t, list, part) }
	for name, rights := range map[string][3][]string{
		"gate":     {less(grants, "outbox_gate"), publish, subscribe},
		"views":    {less(grants, "outbox_migrations"), publish, subscribe},
		"results":  {grants, less(publish, "interactions.results"), subscribe},
		"ack":      {grants, less(publish, "$JS.ACK"), subscribe},
		"next":     {grants, less(publish, "MSG.NEXT"), subscribe},
		"info":     {grants, less(publish, "CONSUMER.INFO"), subscribe},
		"names":    {grants, less(publish, "STREAM.NAMES"), subscribe},
		"inbox":    {grants, publish, less(subscribe, "_INBOX")},
		"advisory": {grants, publish, less(subscribe, "MAX_DELIVERIES")},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, cfg := poorRig(t, rights[0], rights[1], rights[2])
			out := r.startLogged(cfg)
			r.send("l", 0, 1)
			expect.Eventually(t, func() error {
				if !denied.MatchString(out.String()) {
					return fmt.Errorf("nothing is said of a permission")
				}
				return nil
			})
		})
	}
}

// TestPermissionTable: each row of the table in docs/operating.md is enough for who it is
// for, from the first start on an empty server; and nothing in the rows of people and of
// services is too much.
func TestPermissionTable(t *testing.T) {
	t.Parallel()
	_, users := rights(t)
	const password = "a-password"
	sends, audits := of(t, users, "worker send", "worker send --wait, beside that"), of(t, users, "worker audit")
	service := map[string]right{
		"sender": of(t, users, "a service crm that sends"),
		"reader": of(t, users, "a service crm that reads its results with a durable consumer crm"),
		"asker":  of(t, users, "a service crm that asks for its requests, and cancels them"),
	}
	accounts := map[string]right{
		"setup":   of(t, users, "worker", "the worker that makes the consumer, beside that", "the worker with CREATE_STREAMS=true, beside both"),
		"maker":   of(t, users, "worker", "the worker that makes the consumer, beside that"),
		"worker":  of(t, users, "worker"),
		"publish": of(t, users, "worker send"),
		"send":    sends, "audit": audits, "sender": service["sender"], "reader": service["reader"], "asker": service["asker"],
	}
	less := map[string]string{} // accounts that lack one subject, and which
	for _, verb := range []string{"send", "audit"} {
		for i, subject := range accounts[verb].publish {
			// Needed only for a message that is in no table, and for tidying up on the way out,
			// which nobody waits for.
			if strings.Contains(subject, "STREAM.MSG.GET") || strings.Contains(subject, "CONSUMER.DELETE") {
				continue
			}
			name := fmt.Sprintf("%s-%d", verb, i)
			less[name] = subject
			accounts[name] = right{slices.Delete(slices.Clone(accounts[verb].publish), i, i+1), accounts[verb].subscribe}
		}
	}
	var options natstest.Options
	for name, r := range accounts {
		options.Users = append(options.Users, natstest.User{Name: name, Password: password, Publish: r.publish, Subscribe: r.subscribe})
	}
	dsn := migrated.NewDSN(t)
	r := &rig{t: t, dsn: dsn, flex: flextest.New(t), nats: natstest.New(t, options)}
	var err error
	if r.pool, err = pgxpool.New(t.Context(), dsn); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.pool.Close)
	if r.js, err = jetstream.New(r.nats.Connect(t), natstest.Unhurried()); err != nil {
		t.Fatal(err)
	}
	as := func(name string) []string {
		return r.environment("NATS_URL="+r.nats.URLFor(name), "CREATE_STREAMS=true")
	}
	start := func(name string) *child {
		c := r.command(as(name), "run")
		r.says(c.address, "ok", 200)
		return c
	}
	end := func(c *child) {
		t.Helper()
		if err := c.cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if status := c.exit(); status != 0 {
			t.Errorf("a worker that was told to stop ends with status %d", status)
		}
	}
	quiet := func(who, said string) {
		t.Helper()
		for line := range strings.Lines(said) {
			if denied.MatchString(line) {
				t.Errorf("%s: %s", who, line)
			}
		}
	}
	first := start("setup")
	quiet("setup", first.log.String())
	end(first)
	if err := r.js.DeleteConsumer(t.Context(), "INTERACTION_REQUESTS", "interaction-worker"); err != nil {
		t.Fatal(err)
	}
	second := r.command(r.environment("NATS_URL="+r.nats.URLFor("maker")), "run")
	r.says(second.address, "ok", 200)
	quiet("maker", second.log.String())
	end(second)
	serving := r.command(r.environment("NATS_URL="+r.nats.URLFor("worker")), "run")
	r.says(serving.address, "ok", 200)

	file := t.TempDir() + "/events"
	if err := os.WriteFile(file, requestOf("typed-1"), 0o600); err != nil {
		t.Fatal(err)
	}
	tryAs := func(name string, want int, args ...string) string {
		t.Helper()
		status, _, errs := r.try(as(name), args...)
		if status != want {
			t.Errorf("worker %s as %s: status %d, want %d: %s", strings.Join(args, " "), name, status, want, errs)
		}
		return errs
	}
	quiet("send", tryAs("publish", 0, "send", file))
	quiet("send --wait", tryAs("send", 0, "send", "--wait", "30s", file))
	connected := func(name string) *nats.Conn {
		t.Helper()
		conn, err := nats.Connect(r.nats.URLFor(name), nats.CustomInboxPrefix("_INBOX.crm"), nats.Timeout(expect.Patience),
			nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { t.Errorf("%s: %v", name, err) }))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(conn.Close)
		return conn
	}
	connect := func(name string) jetstream.JetStream {
		t.Helper()
		js, err := jetstream.New(connected(name), natstest.Unhurried())
		if err != nil {
			t.Fatal(err)
		}
		return js
	}
	if _, err := connect("sender").Publish(t.Context(), "interactions.requests.crm", requestOf("sent-1")); err != nil {
		t.Errorf("a service that sends: %v", err)
	}
	asker := connected("asker")
	expect.Eventually(t, func() error {
		body, code := askedAs(t, asker, "interactions.status.crm", "sent-1")
		return expect.Is("a service that asks "+code, fmt.Sprint(body["state"]), "created")
	})
	if body, code := askedAs(t, asker, "interactions.cancel.crm", "sent-1"); code != "" || body["cancelled"] != false {
		t.Errorf("a service that cancels: %v, %s", body, code)
	}
	results, err := connect("reader").CreateConsumer(t.Context(), "INTERACTION_RESULTS", jetstream.ConsumerConfig{
		Durable: "crm", FilterSubject: "interactions.results.*.crm", AckPolicy: jetstream.AckExplicitPolicy})
	if err != nil {
		t.Fatalf("a service that reads: %v", err)
	}
	m, err := results.Next(jetstream.FetchMaxWait(expect.Patience))
	if err != nil {
		t.Fatalf("a service that reads: %v", err)
	}
	if err := m.DoubleAck(t.Context()); err != nil || !strings.Contains(string(m.Data()), `"created"`) {
		t.Errorf("a service that reads: %v, %s", err, m.Data())
	}
	expect.Eventually(t, func() error {
		return expect.Is("unpublished", r.count(`SELECT count(*) FROM outbox WHERE published_at IS NULL`), 0)
	})
	quiet("audit", tryAs("audit", 0, "audit"))
	quiet("the worker", serving.log.String())

	// What is missing is missed: the verb fails, or says that it was refused a subject.
	var wait sync.WaitGroup
	for name, subject := range less {
		wait.Go(func() {
			verb, _, _ := strings.Cut(name, "-")
			args := map[string][]string{"send": {"send", "--wait", "3s", file}, "audit": {"audit"}}[verb]
			if status, _, errs := r.try(as(name), args...); status == 0 && !denied.MatchString(errs) {
				t.Errorf("worker %s does not need %s", verb, subject)
			}
		})
	}
	wait.Wait()
}
