package main

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"flexworker/internal/testing/expect"
	"flexworker/internal/testing/natstest"
)

// without is list without what has part in it.
func without(t *testing.T, list []string, part string) []string {
	t.Helper()
	kept := slices.DeleteFunc(slices.Clone(list), func(s string) bool { return strings.Contains(s, part) })
	if len(kept) == len(list) {
		t.Fatalf("docs/operating.md does not list %s", part)
	}
	return kept
}

// refusedIn waits until the log has a refusal with these words.
func refusedIn(t *testing.T, out *logs, words string) {
	t.Helper()
	expect.Eventually(t, func() error {
		for line := range strings.Lines(out.String()) {
			if denied.MatchString(line) && strings.Contains(line, words) {
				return nil
			}
		}
		return fmt.Errorf("the log has no refusal with %s", words)
	})
}

// remembersIDs has both streams drop for long what a sender, or the worker, publishes again because it did not hear of it.
func (r *rig) remembersIDs() {
	r.t.Helper()
	for _, name := range []string{"INTERACTION_REQUESTS", "INTERACTION_RESULTS"} {
		stream, err := r.js.Stream(r.t.Context(), name)
		if err != nil {
			r.t.Fatal(err)
		}
		config := stream.CachedInfo().Config
		config.Duplicates = 30 * time.Minute
		if _, err := r.js.UpdateStream(r.t.Context(), config); err != nil {
			r.t.Fatal(err)
		}
	}
}

// TestPermissionTakenAway: under load NATS takes a permission away from the worker while it is connected, and later gives it back.
// In between the worker is not ready, and its log names the subject. Then it goes on by itself, on the same connection where NATS
// keeps that, and nothing is lost or doubled.
func TestPermissionTakenAway(t *testing.T) {
	t.Parallel()
	grants, users := rights(t)
	worker := of(t, users, "worker")
	for name, part := range map[string]string{
		"pull": "MSG.NEXT", "results": "interactions.results", "ack": "$JS.ACK", "info": "CONSUMER.INFO", "answers": "_INBOX.flexworker",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, cfg := poorRig(t, grants, worker.publish, worker.subscribe)
			r.redeliversSoon()
			r.remembersIDs()
			in := r.read()
			out := r.startLogged(cfg)
			r.says(cfg.AdminAddr, "ok", 200)
			sending := r.load()
			in.goesOn()

			r.nats.Reload(t, func(o *natstest.Options) {
				if name == "answers" {
					o.Users[0].Subscribe = without(t, worker.subscribe, part)
				} else {
					o.Users[0].Publish = without(t, worker.publish, part)
				}
			})
			refusedIn(t, out, part)
			r.says(cfg.AdminAddr, "nats", 503)
			r.nats.Reload(t, func(o *natstest.Options) { o.Users[0].Publish, o.Users[0].Subscribe = worker.publish, worker.subscribe })
			r.says(cfg.AdminAddr, "ok", 200)
			in.goesOn()
			in.balanced(sending.stop())
			r.uncounted()
		})
	}
}

// TestGrantTakenAway: the same with the grants of Postgres.
func TestGrantTakenAway(t *testing.T) {
	t.Parallel()
	grants, users := rights(t)
	worker := of(t, users, "worker")
	for _, grant := range []string{"UPDATE ON outbox", "INSERT ON outbox", "INSERT ON outbox_attempts", "SELECT ON outbox_gate"} {
		t.Run(grant, func(t *testing.T) {
			t.Parallel()
			r, cfg := poorRig(t, grants, worker.publish, worker.subscribe)
			r.redeliversSoon()
			r.remembersIDs()
			address, err := url.Parse(cfg.DatabaseURL.Value())
			if err != nil {
				t.Fatal(err)
			}
			role := address.User.Username()
			in := r.read()
			out := r.startLogged(cfg)
			r.says(cfg.AdminAddr, "ok", 200)
			sending := r.load()
			in.goesOn()

			r.must(`REVOKE ` + grant + ` FROM ` + role)
			_, table, _ := strings.Cut(grant, " ON ")
			refusedIn(t, out, "permission denied for table "+table)
			r.says(cfg.AdminAddr, "database", 503)
			r.must(`GRANT ` + grant + ` TO ` + role)
			r.says(cfg.AdminAddr, "ok", 200)
			in.goesOn()
			in.balanced(sending.stop())
			r.uncounted()
		})
	}
}
