package main

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go/jetstream"

	"flexworker/internal/consumer"
	"flexworker/internal/consumer/consumertest"
	"flexworker/internal/flex/flextest"
	"flexworker/internal/outbox/outboxtest"
	"flexworker/migrations"
)

// leastRights reads from docs/operating.md what it says is enough, so that the two cannot drift.
func leastRights(t *testing.T) (grants, publish, subscribe []string) {
	t.Helper()
	text, err := os.ReadFile("../../docs/operating.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, ok := strings.Cut(string(text), "\n## Permissions\n")
	if !ok {
		t.Fatal("docs/operating.md has no section Permissions")
	}
	section, _, _ = strings.Cut(section, "\n## ")
	grants = regexp.MustCompile(`(?m)^    GRANT .*;$`).FindAllString(section, -1)
	_, nats, _ := strings.Cut(section, "NATS, when the streams and the consumer exist:")
	nats, _, _ = strings.Cut(nats, "To create the consumer also")
	pub, sub, ok := strings.Cut(nats, "subscribe to")
	if !ok || len(grants) == 0 {
		t.Fatalf("the permissions in docs/operating.md cannot be read: %s", section)
	}
	quoted := regexp.MustCompile("`([^`]+)`")
	for into, text := range map[*[]string]string{&publish: pub, &subscribe: sub} {
		for _, m := range quoted.FindAllStringSubmatch(text, -1) {
			*into = append(*into, m[1])
		}
	}
	return grants, publish, subscribe
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
	dsn := outboxtest.NewDSN(t)
	r := &rig{t: t, dsn: dsn, flex: flextest.New(t),
		nats: consumertest.New(t, consumertest.Options{Users: []consumertest.User{{Name: user, Password: password, Publish: publish, Subscribe: subscribe}}})}
	if _, err := migrations.Up(t.Context(), dsn); err != nil {
		t.Fatal(err)
	}
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
	if r.js, err = jetstream.New(r.nats.Connect(t)); err != nil {
		t.Fatal(err)
	}
	if _, err := r.js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "INTERACTION_RESULTS", Subjects: []string{"interactions.results.>"}}); err != nil {
		t.Fatal(err)
	}
	names := consumer.Names{Stream: "INTERACTION_REQUESTS", Subject: "interactions.requests", Consumer: "interaction-worker", Create: true}
	if _, err := names.Open(t.Context(), r.js); err != nil {
		t.Fatal(err)
	}
	cfg := r.config()
	poor, err := url.Parse(dsn)
	if err != nil || poor.Host == "" {
		t.Fatalf("the address of the database is no URL: %v", err)
	}
	poor.User = url.UserPassword(role, password)
	cfg.DatabaseURL, cfg.Migrate, cfg.NATSURL = secretOf(poor.String()), false, r.nats.URLFor(user)
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
	grants, publish, subscribe := leastRights(t)
	r, cfg := poorRig(t, grants, publish, subscribe)
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
	if _, err := r.js.Publish(t.Context(), "interactions.requests.shop", request("p-1")); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error {
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
	for _, line := range []string{"list", "show p-1", "explain p-5", "audit --tables-only", "hold --why x", "release --why x", "retry p-5 --why x", "republish p-1 --why x", "migrate status"} {
		if status, _, errs := r.try(env, strings.Fields(line)...); status != 0 {
			t.Errorf("worker %s: status %d: %s", line, status, errs)
		}
	}
	// And no more than that: what nothing uses is not granted.
	var more []string
	if err := r.pool.QueryRow(t.Context(), `
		SELECT coalesce(array_agg(table_name || ' ' || privilege_type), '{}') FROM information_schema.role_table_grants
		 WHERE grantee = $1 AND (table_name = 'outbox_acts' AND privilege_type NOT IN ('SELECT', 'INSERT')
		    OR table_name = 'outbox_attempts' AND privilege_type NOT IN ('SELECT', 'INSERT', 'DELETE')
		    OR table_name = 'outbox_gate' AND privilege_type NOT IN ('SELECT', 'UPDATE')
		    OR table_name IN ('outbox_attention', 'outbox_backlog')
		    OR table_name = 'outbox_migrations' AND privilege_type <> 'SELECT'
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
	grants, publish, subscribe := leastRights(t)
	less := func(list []string, part string) []string {
		t.Helper()
		kept := slices.DeleteFunc(slices.Clone(list), func(s string) bool { return strings.Contains(s, part) })
		if len(kept) == len(list) {
			t.Fatalf("docs/operating.md does not list %s", part)
		}
		return kept
	}
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
			eventually(t, func() error {
				if !denied.MatchString(out.String()) {
					return fmt.Errorf("nothing is said of a permission")
				}
				return nil
			})
		})
	}
}
