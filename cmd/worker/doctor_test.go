package main

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go/jetstream"

	"flexworker/internal/consumer"
	"flexworker/internal/doctor"
	"flexworker/internal/testing/expect"
	"flexworker/internal/testing/flextest"
	"flexworker/internal/testing/natstest"
	"flexworker/internal/testing/pgtest"
)

// wellRig is a world in which a worker lacks nothing. It may do at NATS what docs/operating.md lists for the worker and for
// worker doctor.
func wellRig(t *testing.T, change ...func(*natstest.User)) (*rig, []string) {
	t.Helper()
	_, users := rights(t)
	may := of(t, users, "worker", "worker doctor, beside the worker's")
	user := natstest.User{Name: "worker", Password: "a-password", Publish: may.publish, Subscribe: may.subscribe}
	for _, c := range change {
		c(&user)
	}
	r := &rig{t: t, dsn: migrated.NewDSN(t), flex: flextest.New(t), nats: natstest.New(t, natstest.Options{Users: []natstest.User{user}})}
	var err error
	if r.pool, err = pgxpool.New(t.Context(), r.dsn); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.pool.Close)
	if r.js, err = jetstream.New(r.nats.Connect(t), natstest.Unhurried()); err != nil {
		t.Fatal(err)
	}
	names := consumer.Names{Stream: "INTERACTION_REQUESTS", Subject: "interactions.requests", Consumer: "interaction-worker", Create: true, MaxAge: 24 * time.Hour}
	expect.Eventually(t, func() error { _, err := names.Open(t.Context(), r.js); return err }) // it asks as often as a worker does
	expect.Eventually(t, func() error {
		_, err := r.js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "INTERACTION_RESULTS", Subjects: []string{"interactions.results.>"}, Duplicates: 30 * time.Minute})
		return err
	})
	return r, r.environment("NATS_URL="+r.nats.URLFor("worker"), "FLEX_RATE=10")
}

// doctor is what worker doctor says, by server and thing: of several lines about one thing the worst.
func (r *rig) doctor(env []string) (status int, all map[string]doctor.Status, said string) {
	r.t.Helper()
	status, out, errs := r.try(env, "doctor", "--json")
	var report struct{ Lines doctor.Report }
	if err := json.Unmarshal([]byte(out), &report); err != nil {
		r.t.Fatalf("%v: %s %s", err, out, errs)
	}
	worse := []doctor.Status{doctor.OK, doctor.Unknown, doctor.Advice, doctor.Fault, doctor.Settings, doctor.Away}
	all = map[string]doctor.Status{}
	for _, l := range report.Lines {
		name := l.Server + " " + l.What
		if now, there := all[name]; !there || slices.Index(worse, l.Status) > slices.Index(worse, now) {
			all[name] = l.Status
		}
		if l.Status != doctor.OK && l.Status != doctor.Unknown && l.Do == "" && l.Server != "settings" && !strings.Contains(l.Says, ";") {
			r.t.Errorf("nobody says what to do: %+v", l)
		}
		if strings.Contains(l.Says+l.Do, "a-password") || strings.Contains(l.Says+l.Do, flextest.AuthToken) {
			r.t.Errorf("it shows a secret: %+v", l)
		}
	}
	return status, all, out
}

// wellLines is what is said where nothing is missing. The shared server of the tests runs without fsync, which is an advice.
var wellLines = map[string]doctor.Status{
	"settings environment": "ok", "postgres connection": "ok", "postgres encoding": "ok", "postgres writes": "advice", "postgres collation": "ok",
	"postgres schema": "ok", "postgres grants": "ok", "nats connection": "ok", "nats request stream": "ok", "nats consumer": "ok", "nats result stream": "ok",
	"nats result stream's settings": "ok", "nats questions of senders": "ok", "nats permissions": "ok", "flex credentials": "ok", "flex configuration": "ok",
	"taskrouter workspace": "ok", "taskrouter lookups": "ok",
}

// TestDoctor: each thing that is missing is seen on its line, and on no other but those that cannot be asked without it.
func TestDoctor(t *testing.T) {
	t.Parallel()
	alter := func(t *testing.T, r *rig, stream string, change func(*jetstream.StreamConfig)) {
		t.Helper()
		s, err := r.js.Stream(t.Context(), stream)
		if err != nil {
			t.Fatal(err)
		}
		config := s.CachedInfo().Config
		if err := r.js.DeleteStream(t.Context(), stream); err != nil {
			t.Fatal(err)
		}
		change(&config)
		if _, err := r.js.CreateStream(t.Context(), config); err != nil {
			t.Fatal(err)
		}
	}
	with := func(dsn, more string) string {
		if strings.Contains(dsn, "?") {
			return dsn + "&" + more
		}
		return dsn + "?" + more
	}
	remove := func(list []string, part string) []string {
		return slices.DeleteFunc(slices.Clone(list), func(s string) bool { return strings.Contains(s, part) })
	}
	unknownPostgres := map[string]doctor.Status{"postgres schema": "unknown", "postgres grants": "unknown", "postgres collation": "", "postgres writes": "unknown", "postgres encoding": "unknown"}
	unknownNATS := map[string]doctor.Status{"nats request stream": "unknown", "nats consumer": "unknown", "nats result stream": "unknown", "nats result stream's settings": "",
		"nats questions of senders": "unknown", "nats permissions": "unknown"}
	unknownTwilio := map[string]doctor.Status{"flex configuration": "unknown", "taskrouter workspace": "unknown", "taskrouter lookups": "unknown"}
	for name, c := range map[string]struct {
		user    func(*natstest.User)
		without func(t *testing.T, r *rig) []string // more of the environment
		lines   map[string]doctor.Status            // that differ; "": it is not there
		also    map[string]doctor.Status
		status  int
		says    string
	}{
		"nothing": {},
		"a setting": {without: func(*testing.T, *rig) []string { return []string{"FLEX_TIMEOUT=soon"} }, lines: map[string]doctor.Status{"settings environment": "settings"}, status: 2, says: "FLEX_TIMEOUT",
			also: map[string]doctor.Status{"*": ""}},
		"a setting's name": {without: func(*testing.T, *rig) []string { return []string{"FLEX_TIMEOUTS=3s"} }, lines: map[string]doctor.Status{"settings environment": "advice"}, says: "FLEX_TIMEOUTS"},
		"Postgres": {without: func(*testing.T, *rig) []string {
			return []string{"DATABASE_URL=postgres://worker:a-password@127.0.0.1:1/worker"}
		},
			lines: map[string]doctor.Status{"postgres connection": "away"}, also: unknownPostgres, status: 3},
		"the database": {without: func(_ *testing.T, r *rig) []string {
			return []string{"DATABASE_URL=" + strings.Replace(r.dsn, r.pool.Config().ConnConfig.Database, "no_such_database", 1)}
		}, lines: map[string]doctor.Status{"postgres connection": "settings"}, also: unknownPostgres, status: 2, says: "no_such_database"},
		"UTF-8": {without: func(t *testing.T, r *rig) []string {
			name := r.pool.Config().ConnConfig.Database
			pgtest.Exec(t, r.pool, `CREATE DATABASE `+name+`_ascii ENCODING 'SQL_ASCII' LOCALE 'C' TEMPLATE template0`)
			t.Cleanup(func() { afterwards(t, r, `DROP DATABASE `+name+`_ascii WITH (FORCE)`) })
			return []string{"DATABASE_URL=" + strings.Replace(r.dsn, name, name+"_ascii", 1)}
		}, lines: map[string]doctor.Status{"postgres encoding": "fault", "postgres connection": ""}, status: 1,
			also: map[string]doctor.Status{"postgres schema": "unknown", "postgres grants": "unknown", "postgres collation": "", "postgres writes": "unknown"}},
		"writes": {without: func(_ *testing.T, r *rig) []string {
			return []string{"DATABASE_URL=" + with(r.dsn, "default_transaction_read_only=on")}
		},
			lines: map[string]doctor.Status{"postgres writes": "fault"}, status: 1},
		"the collation": {without: func(t *testing.T, r *rig) []string {
			name := r.pool.Config().ConnConfig.Database
			pgtest.Exec(t, r.pool, `CREATE DATABASE `+name+`_icu LOCALE_PROVIDER icu ICU_LOCALE 'en' TEMPLATE template0`)
			t.Cleanup(func() { afterwards(t, r, `DROP DATABASE `+name+`_icu WITH (FORCE)`) })
			pgtest.Exec(t, r.pool, `UPDATE pg_database SET datcollversion = '0.1' WHERE datname = $1`, name+"_icu")
			return []string{"DATABASE_URL=" + strings.Replace(r.dsn, name, name+"_icu", 1)}
		}, lines: map[string]doctor.Status{"postgres collation": "advice"}, also: map[string]doctor.Status{"postgres grants": "unknown"}, says: "REINDEX"},
		"the schema": {without: func(t *testing.T, _ *rig) []string {
			return []string{"MIGRATE=false", "DATABASE_URL=" + pgtest.NewDSN(t)}
		},
			lines: map[string]doctor.Status{"postgres schema": "fault"}, also: map[string]doctor.Status{"postgres grants": "unknown"}, status: 1, says: "worker migrate up"},
		"the schema, which the first worker makes": {without: func(t *testing.T, _ *rig) []string { return []string{"DATABASE_URL=" + pgtest.NewDSN(t)} },
			lines: map[string]doctor.Status{}, also: map[string]doctor.Status{"postgres grants": "unknown"}},
		"the search path": {without: func(_ *testing.T, r *rig) []string {
			return []string{"DATABASE_URL=" + with(r.dsn, "search_path=nowhere")}
		},
			lines: map[string]doctor.Status{"postgres schema": "fault"}, also: map[string]doctor.Status{"postgres grants": "unknown"}, status: 1, says: "search_path"},
		"grants": {without: func(t *testing.T, r *rig) []string {
			role := "sick_" + r.pool.Config().ConnConfig.Database
			pgtest.Exec(t, r.pool, `CREATE ROLE `+role)
			t.Cleanup(func() { afterwards(t, r, `DROP OWNED BY `+role+`; DROP ROLE `+role) })
			pgtest.Exec(t, r.pool, `GRANT SELECT ON ALL TABLES IN SCHEMA public TO `+role)
			return []string{"DATABASE_URL=" + with(r.dsn, "role="+role)}
		}, lines: map[string]doctor.Status{"postgres grants": "fault"}, status: 1, says: "GRANT DELETE, INSERT, UPDATE ON outbox TO"},
		"NATS": {without: func(*testing.T, *rig) []string { return []string{"NATS_URL=nats://worker:a-password@127.0.0.1:1"} },
			lines: map[string]doctor.Status{"nats connection": "away"}, also: unknownNATS, status: 3},
		"the user of NATS": {without: func(_ *testing.T, r *rig) []string {
			return []string{"NATS_URL=" + strings.Replace(r.nats.URLFor("worker"), "a-password", "another", 1)}
		}, lines: map[string]doctor.Status{"nats connection": "settings"}, also: unknownNATS, status: 2},
		"the request stream": {without: func(t *testing.T, r *rig) []string {
			if err := r.js.DeleteStream(t.Context(), "INTERACTION_REQUESTS"); err != nil {
				t.Fatal(err)
			}
			return nil
		}, lines: map[string]doctor.Status{"nats request stream": "fault"}, also: map[string]doctor.Status{"nats consumer": "unknown"}, status: 1, says: "nats stream add INTERACTION_REQUESTS"},
		"both streams, which the first worker makes": {without: func(t *testing.T, r *rig) []string {
			for _, stream := range []string{"INTERACTION_REQUESTS", "INTERACTION_RESULTS"} {
				if err := r.js.DeleteStream(t.Context(), stream); err != nil {
					t.Fatal(err)
				}
			}
			return []string{"CREATE_STREAMS=true"}
		}, also: map[string]doctor.Status{"nats consumer": "unknown", "nats result stream's settings": ""}},
		"the subject of requests": {without: func(t *testing.T, r *rig) []string {
			alter(t, r, "INTERACTION_REQUESTS", func(c *jetstream.StreamConfig) { c.Subjects = []string{"interactions.requests.*"} })
			return nil
		}, lines: map[string]doctor.Status{"nats request stream": "fault"}, status: 1, says: "nats stream edit"},
		"the window of requests": {without: func(t *testing.T, r *rig) []string {
			alter(t, r, "INTERACTION_REQUESTS", func(c *jetstream.StreamConfig) { c.Duplicates = time.Minute })
			return nil
		}, lines: map[string]doctor.Status{"nats request stream": "advice"}, says: "--dupe-window 100ms"},
		"the age of requests": {without: func(*testing.T, *rig) []string { return []string{"RETENTION=2h"} },
			lines: map[string]doctor.Status{"nats request stream": "advice"}, says: "max_age"},
		"the disk of requests": {without: func(t *testing.T, r *rig) []string {
			alter(t, r, "INTERACTION_REQUESTS", func(c *jetstream.StreamConfig) { c.Storage = jetstream.MemoryStorage })
			return nil
		}, lines: map[string]doctor.Status{"nats request stream": "advice"}, says: "--storage file"},
		"the consumer": {without: func(t *testing.T, r *rig) []string {
			if err := r.js.DeleteConsumer(t.Context(), "INTERACTION_REQUESTS", "interaction-worker"); err != nil {
				t.Fatal(err)
			}
			if _, err := r.js.CreateConsumer(t.Context(), "INTERACTION_REQUESTS", jetstream.ConsumerConfig{Durable: "interaction-worker", AckPolicy: jetstream.AckExplicitPolicy}); err != nil {
				t.Fatal(err)
			}
			return nil
		}, lines: map[string]doctor.Status{"nats consumer": "fault"}, status: 1, says: "needed is"},
		"the result stream": {without: func(t *testing.T, r *rig) []string {
			if err := r.js.DeleteStream(t.Context(), "INTERACTION_RESULTS"); err != nil {
				t.Fatal(err)
			}
			return nil
		}, lines: map[string]doctor.Status{"nats result stream": "fault"}, also: map[string]doctor.Status{"nats result stream's settings": ""}, status: 1, says: "nats stream add INTERACTION_RESULTS"},
		"the name of the result stream": {without: func(*testing.T, *rig) []string { return []string{"RESULTS_STREAM=OTHERS"} },
			lines: map[string]doctor.Status{"nats result stream": "fault"}, also: map[string]doctor.Status{"nats result stream's settings": ""}, status: 1, says: "RESULTS_STREAM=INTERACTION_RESULTS"},
		"the retention of results": {without: func(t *testing.T, r *rig) []string {
			alter(t, r, "INTERACTION_RESULTS", func(c *jetstream.StreamConfig) { c.Retention = jetstream.WorkQueuePolicy })
			return nil
		}, lines: map[string]doctor.Status{"nats result stream's settings": "advice"}, says: "--retention limits"},
		"the window of results": {without: func(t *testing.T, r *rig) []string {
			alter(t, r, "INTERACTION_RESULTS", func(c *jetstream.StreamConfig) { c.Duplicates = 2 * time.Minute })
			return nil
		}, lines: map[string]doctor.Status{"nats result stream's settings": "advice"}, says: "--dupe-window 30m"},
		"the subject of questions": {without: func(t *testing.T, r *rig) []string {
			if _, err := r.js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "ALL", Subjects: []string{"interactions.cancel.>"}}); err != nil {
				t.Fatal(err)
			}
			return nil
		}, lines: map[string]doctor.Status{"nats questions of senders": "fault"}, status: 1, says: "SERVICE_SUBJECT"},
		"a right to publish": {user: func(u *natstest.User) { u.Publish = remove(u.Publish, "interactions.results") },
			lines: map[string]doctor.Status{"nats permissions": "fault"}, status: 1, says: "interactions.results.>"},
		"a right to subscribe": {user: func(u *natstest.User) { u.Subscribe = remove(u.Subscribe, "interactions.status") },
			lines: map[string]doctor.Status{"nats permissions": "fault"}, status: 1, says: "interactions.status.>"},
		"the right to answer": {user: func(u *natstest.User) { u.Publish = remove(u.Publish, "_INBOX.") },
			lines: map[string]doctor.Status{"nats permissions": "fault"}, status: 1, says: "_INBOX.>, where it answers senders"},
		"the doctor's own rights": {user: func(u *natstest.User) {
			u.Publish = remove(remove(u.Publish, "USER.INFO"), "STREAM.INFO.INTERACTION_RESULTS")
		},
			lines: map[string]doctor.Status{"nats permissions": "unknown", "nats result stream's settings": "unknown"}, says: "$SYS.REQ.USER.INFO"},
		"the token": {without: func(*testing.T, *rig) []string { return []string{"TWILIO_AUTH_TOKEN=" + strings.Repeat("0", 32)} },
			lines: map[string]doctor.Status{"flex credentials": "settings"}, also: unknownTwilio, status: 2, says: "TWILIO_AUTH_TOKEN"},
		"Flex": {without: func(_ *testing.T, r *rig) []string { r.flex.Down(); return nil },
			lines: map[string]doctor.Status{"flex credentials": "away"}, also: unknownTwilio, status: 3},
		"Flex in the account": {without: func(_ *testing.T, r *rig) []string { r.flex.SetSetup(flextest.Setup{Status: "notstarted"}); return nil },
			lines: map[string]doctor.Status{"flex configuration": "fault"}, status: 1, says: "notstarted"},
		"the account": {without: func(_ *testing.T, r *rig) []string {
			r.flex.SetSetup(flextest.Setup{Account: "AC" + strings.Repeat("9", 32)})
			return nil
		}, lines: map[string]doctor.Status{"flex configuration": "fault"}, status: 1, says: "TWILIO_ACCOUNT_SID"},
		"the workspace": {without: func(_ *testing.T, r *rig) []string { r.flex.SetSetup(flextest.Setup{Workspace: "-"}); return nil },
			lines: map[string]doctor.Status{"flex configuration": "fault"}, also: map[string]doctor.Status{"taskrouter workspace": "unknown", "taskrouter lookups": "unknown"}, status: 1},
		"workflows": {without: func(_ *testing.T, r *rig) []string {
			r.flex.SetSetup(flextest.Setup{Workflows: []string{}})
			return nil
		},
			lines: map[string]doctor.Status{"taskrouter workspace": "fault"}, status: 1, says: "workflow_sid"},
		"the right to read the set-up": {without: func(_ *testing.T, r *rig) []string { r.flex.SetSetup(flextest.Setup{Refused: true}); return nil },
			lines: map[string]doctor.Status{"flex configuration": "unknown"}, also: map[string]doctor.Status{"taskrouter workspace": "unknown", "taskrouter lookups": "unknown"}},
		"the right to search tasks": {without: func(_ *testing.T, r *rig) []string {
			r.flex.SetTaskRouter(flextest.TaskRouter{Trouble: flextest.Status(403)})
			return nil
		}, lines: map[string]doctor.Status{"taskrouter lookups": "fault"}, status: 1},
		"TaskRouter": {without: func(_ *testing.T, r *rig) []string { return []string{"TASKROUTER_URL=http://127.0.0.1:1"} },
			lines: map[string]doctor.Status{"taskrouter workspace": "away", "taskrouter lookups": "away"}, status: 3},
		"lookups": {without: func(*testing.T, *rig) []string { return []string{"LOOKUP_ATTRIBUTE="} },
			lines: map[string]doctor.Status{"taskrouter lookups": "advice"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if c.user == nil {
				c.user = func(*natstest.User) {}
			}
			r, env := wellRig(t, c.user)
			if c.without != nil {
				env = append(env, c.without(t, r)...)
			}
			want := maps.Clone(wellLines)
			if _, nothing := c.also["*"]; nothing {
				clear(want)
			}
			for _, changed := range []map[string]doctor.Status{c.lines, c.also} {
				for line, status := range changed {
					if want[line] = status; status == "" {
						delete(want, line)
					}
				}
			}
			var status int
			var got map[string]doctor.Status
			var said string
			expect.Eventually(t, func() error { // on a busy machine the doctor's limits may be over before an answer
				if status, got, said = r.doctor(env); !maps.Equal(got, want) && noAnswer.MatchString(said) {
					return fmt.Errorf("differences %s:\n%s", differences(got, want), said)
				}
				return nil
			})
			if status != c.status || !maps.Equal(got, want) || !strings.Contains(said, c.says) {
				t.Errorf("status %d, want %d; differences %s; it has to say %q:\n%s", status, c.status, differences(got, want), c.says, said)
			}
		})
	}
}

// noAnswer is how the doctor says that a server has not answered in time.
var noAnswer = regexp.MustCompile(`timeout|deadline exceeded`)

// afterwards runs a statement at the end of a test.
func afterwards(t *testing.T, r *rig, sql string) {
	t.Helper()
	if _, err := r.pool.Exec(context.WithoutCancel(t.Context()), sql); err != nil {
		t.Error(err)
	}
}

func differences(got, want map[string]doctor.Status) string {
	var all []string
	for _, name := range slices.Sorted(maps.Keys(wellLines)) {
		if got[name] != want[name] {
			all = append(all, fmt.Sprintf("%s: %q, want %q", name, got[name], want[name]))
		}
	}
	return strings.Join(all, "; ")
}

// TestDoctorSaysWell: on a server that keeps what it has, and with nothing missing, every line says ok, in words for people.
func TestDoctorSaysWell(t *testing.T) {
	t.Parallel()
	r, env := wellRig(t)
	own := pgtest.NewServer(t)
	status, out, errs := r.try(append(env, "DATABASE_URL="+own.DSN("postgres")), "doctor")
	for line := range strings.Lines(out) {
		if word, _, _ := strings.Cut(line, " "); word != "STATUS" && word != "ok" && !strings.HasPrefix(line, "unknown  postgres    grants") {
			t.Errorf("%s", line)
		}
	}
	if status != 0 || errs != "" || strings.Count(out, "\n") < len(wellLines) {
		t.Errorf("status %d, %s:\n%s", status, errs, out)
	}
}

// TestDoctorKnowsRights: the grants and the subjects that the doctor asks for are those of docs/operating.md.
func TestDoctorKnowsRights(t *testing.T) {
	t.Parallel()
	grants, users := rights(t)
	listed := map[string][]string{}
	for _, grant := range grants {
		verbs, tables, _ := strings.Cut(strings.TrimSuffix(strings.TrimPrefix(strings.TrimSpace(grant), "GRANT "), " TO worker;"), " ON ")
		for table := range strings.SplitSeq(tables, ", ") {
			listed[table] = append(listed[table], strings.Split(verbs, ", ")...)
		}
	}
	if !maps.EqualFunc(listed, doctor.Grants, slices.Equal[[]string]) {
		t.Errorf("docs/operating.md grants %v, the doctor asks for %v", listed, doctor.Grants)
	}
	worker := of(t, users, "worker")
	s := doctor.Streams{Requests: consumer.Names{Stream: "INTERACTION_REQUESTS", Subject: "interactions.requests", Consumer: "interaction-worker"},
		Results: "INTERACTION_RESULTS", Subject: "interactions.results", Service: "interactions", Inbox: inboxPrefix}
	sorted := func(list []string) string { return strings.Join(slices.Sorted(slices.Values(list)), " ") }
	if sorted(append(s.Publishes(), "_INBOX.>")) != sorted(worker.publish) || sorted(s.Subscribes()) != sorted(worker.subscribe) {
		t.Errorf("docs/operating.md has %v, the doctor %v and %v", worker, s.Publishes(), s.Subscribes())
	}
}
