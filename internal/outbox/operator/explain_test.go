package operator

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"flexworker/internal/outbox/gate"
	"flexworker/internal/outbox/request"
)

// TestExplain: the sentences of every state, to the letter.
func TestExplain(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 22, 3, 0, 0, 0, time.UTC)
	when := func(d time.Duration) *time.Time { at := now.Add(d); return &at }
	word := func(s string) *string { return &s }
	number := func(n int) *int { return &n }
	millis := func(n int64) *int64 { return &n }
	detail := func(state request.State, change func(*Detail)) Detail {
		d := Detail{Now: now, StreamSequence: 42}
		d.RequestID, d.Source, d.State, d.ReceivedAt = "crm-42", "crm", state, now.Add(-time.Hour)
		if change != nil {
			change(&d)
		}
		return d
	}
	settled := func(change func(*Detail)) func(*Detail) {
		return func(d *Detail) {
			d.SettledAt, d.PublishedAt = when(-time.Minute), when(-59*time.Second)
			change(d)
		}
	}
	const begin = "crm-42 was asked for by crm at 2026-11-22 02:00:00.000 UTC (message 42 of the request stream).\n"
	const published = "The result stream acknowledged its result at 2026-11-22 02:59:01.000 UTC.\n"
	const release = "    worker release --why ...\n"
	const retry, cancel = "    worker retry --attempt %d --why ... -- crm-42\n", "    worker cancel --attempt 1 --why ... -- crm-42\n"
	const decide = "    worker resolve --created KD... --attempt 1 --why ... -- crm-42\n    worker resolve --absent --attempt 1 --why ... -- crm-42\n"
	open := gate.Status{State: gate.Open}
	for _, tt := range []struct {
		name string
		d    Detail
		g    gate.Status
		want string
	}{
		{"pending, due", detail(request.Pending, func(d *Detail) { d.DueAt = when(-time.Second) }), open,
			"It is due: attempt 1 is made as soon as a worker has a free permit.\n"},
		{"pending, limited", detail(request.Pending, func(d *Detail) { d.DueAt = when(0) }), gate.Status{State: gate.Open, Rate: 2.5},
			"It is due: attempt 1 is made as soon as a worker has a free permit and the fleet's rate, 2.5 a second, leaves one.\n"},
		{"pending, for tomorrow", detail(request.Pending, func(d *Detail) { d.DueAt = when(24 * time.Hour) }), open,
			"It waits: attempt 1 is due at 2026-11-23 03:00:00.000 UTC.\n"},
		{"pending, not due", detail(request.Pending, func(d *Detail) { d.DueAt, d.ExpiresAt = when(90*time.Second), when(time.Hour) }), open,
			"It waits: attempt 1 is due in 1m30s. It is not sent after 2026-11-22 04:00:00.000 UTC.\n"},
		{"pending, after a refusal", detail(request.Pending, func(d *Detail) {
			d.DueAt, d.Attempt, d.ErrorMessage = when(1500*time.Millisecond), 1, word("too many requests")
			d.History = []History{{Kind: "attempt", Number: 1, Worker: "w1", StartedAt: now.Add(-time.Minute), TookMS: millis(120),
				HTTPStatus: number(429), TwilioCode: number(20429), Outcome: "refused", Error: word("too many requests"), Applied: true}}
		}), open,
			"Attempt 1 at 2026-11-22 02:59:00.000 UTC by w1: refused after 120 ms, HTTP status 429, Twilio code 20429 (too many requests).\n" +
				"Twilio's code 20429: The account has too many calls to Twilio's API under way; Twilio has not processed this one.\n" +
				"Nothing has to be done: the worker goes on more slowly by itself; where it lasts, lower FLEX_RATE or look for other clients of the account.\n" +
				"It waits: attempt 2 is due in 1.5s (before: too many requests). A retry makes it due now.\n" + fmt.Sprintf(retry, 1)},
		{"pending, held by a person", detail(request.Pending, func(d *Detail) { d.DueAt = when(0) }), gate.Status{State: gate.Held, HeldSince: now, Reason: "a wrong campaign", ChangedBy: "ann"},
			"It is due: attempt 1 is made as soon as a worker has a free permit. But the gate is held by ann since 2026-11-22 03:00:00.000 UTC: a wrong campaign. " +
				"Nothing is sent until a release opens it.\n" + release},
		{"pending, paused", detail(request.Pending, func(d *Detail) { d.DueAt = when(0) }),
			gate.Status{State: gate.Paused, Reason: "HTTP status 429", PausedFor: 10 * time.Minute, ChangedBy: "w2", ChangedAt: now.Add(-time.Minute)},
			"It is due: attempt 1 is made as soon as a worker has a free permit. But the gate is paused by w2 since 2026-11-22 02:59:00.000 UTC: HTTP status 429. " +
				"Nothing is sent until 2026-11-22 03:10:00.000 UTC, when it opens by itself, or until a release opens it at once.\n" + release},
		{"pending, refused to one tenant", detail(request.Pending, func(d *Detail) {
			d.DueAt, d.Attempt, d.HTTPStatus, d.ErrorMessage, d.Workspace = when(time.Minute), 1, number(403), word("forbidden"), word("WS1")
		}), open,
			"It waits: attempt 2 is due in 1m0s (before: forbidden). Flex refused it with HTTP status 403: that may concern what this request shares with others " +
				"of source crm and workspace WS1 alone. A retry makes it due now.\n" + fmt.Sprintf(retry, 1)},
		{"pending, from a sender who means harm", detail(request.Pending, func(d *Detail) {
			d.RequestID, d.Source, d.DueAt, d.Attempt, d.ErrorMessage = "-77;touch 'x'", "crm\x1b[2J", when(time.Minute), 1, word("a\nb\u202ec")
		}), open,
			"It waits: attempt 2 is due in 1m0s (before: a\\nb\\u202ec). A retry makes it due now.\n" +
				`    worker retry --attempt 1 --why ... -- '-77;touch '\''x'\'''` + "\n"},
		{"pending, asked again, released and retried", detail(request.Pending, func(d *Detail) {
			d.DueAt, d.Attempt, d.Repeats = when(0), 1, 2
			d.History = []History{{Kind: "attempt", Number: 1, Worker: "w1", StartedAt: now, Outcome: "released", Applied: true}}
			d.Acts = []Done{{At: now, Who: "ann", Why: "the address is right now", Act: "retry", Was: "rejected"}}
		}), open,
			"It was asked for again (2 more); each is answered with the same result.\n" +
				"Attempt 1 at 2026-11-22 03:00:00.000 UTC by w1: released.\n" +
				"At 2026-11-22 03:00:00.000 UTC ann did: retry (it was rejected). Why: the address is right now.\n" +
				"It is due: attempt 2 is made as soon as a worker has a free permit.\n"},
		{"pending, retried between two attempts", detail(request.Pending, func(d *Detail) {
			d.DueAt, d.Attempt = when(0), 2
			d.History = []History{{Kind: "attempt", Number: 1, Worker: "w1", StartedAt: now.Add(-3 * time.Minute), Outcome: "rejected", Applied: true},
				{Kind: "attempt", Number: 2, Worker: "w1", StartedAt: now.Add(-time.Minute), Outcome: "refused", Applied: true}}
			d.Acts = []Done{{At: now.Add(-2 * time.Minute), Who: "ann", Why: "the workspace is there now", Act: "retry", Was: "rejected"}}
		}), open,
			"Attempt 1 at 2026-11-22 02:57:00.000 UTC by w1: rejected.\n" +
				"At 2026-11-22 02:58:00.000 UTC ann did: retry (it was rejected). Why: the workspace is there now.\n" +
				"Attempt 2 at 2026-11-22 02:59:00.000 UTC by w1: refused.\n" +
				"It is due: attempt 3 is made as soon as a worker has a free permit.\n"},
		{"sending", detail(request.Sending, func(d *Detail) { d.Attempt, d.LeasedBy, d.LeasedUntil = 3, word("w2"), when(20*time.Second) }), open,
			"It is being sent: worker w2 holds attempt 3 until 2026-11-22 03:00:20.000 UTC. If that worker dies, the lease lapses then and it is looked up.\n"},
		{"uncertain, lookup to come", detail(request.Uncertain, func(d *Detail) {
			d.Attempt, d.DueAt, d.UncertainSince, d.ErrorMessage = 1, when(2*time.Second), when(-5*time.Second), word("no answer in 15s")
			d.History = []History{{Kind: "attempt", Number: 1, Worker: "w1", StartedAt: now.Add(-20 * time.Second), TookMS: millis(15000), Outcome: "uncertain", Error: word("no answer in 15s"), Applied: true},
				{Kind: "lookup", Number: 1, Worker: "w2", StartedAt: now.Add(-time.Second), TookMS: millis(30), Outcome: "absent", Applied: false}}
		}), open,
			"Attempt 1 at 2026-11-22 02:59:40.000 UTC by w1: uncertain after 15000 ms (no answer in 15s).\n" +
				"Lookup 1 at 2026-11-22 02:59:59.000 UTC by w2: absent after 30 ms; it came too late and was not applied.\n" +
				"It may exist: attempt 1 could have been under way until 2026-11-22 02:59:55.000 UTC (no answer in 15s). The next lookup is due in 2s. " +
				"This cancels it: it is not sent again.\n" + cancel},
		{"uncertain, timed out", detail(request.Uncertain, func(d *Detail) {
			d.Attempt, d.DueAt, d.UncertainSince, d.ErrorKind, d.ErrorMessage = 1, when(2*time.Second), when(-5*time.Second), word("timeout"), word("no answer in 15s")
		}), open,
			"It may exist: attempt 1 could have been under way until 2026-11-22 02:59:55.000 UTC (no answer in 15s). FLEX_TIMEOUT is how long a call waits for its answer. " +
				"The next lookup is due in 2s. This cancels it: it is not sent again.\n" + cancel},
		{"uncertain, asked many times", detail(request.Uncertain, func(d *Detail) {
			d.Attempt, d.DueAt, d.UncertainSince = 1, when(2*time.Second), when(-time.Hour)
			for i := range 24 {
				d.History = append(d.History, History{Kind: "lookup", Number: i + 1, Worker: fmt.Sprint("w", i%2), StartedAt: now.Add(time.Duration(i-30) * time.Second),
					TookMS: millis(int64(i)), Outcome: "unclear", Error: word("TaskRouter could not be asked"), Applied: true})
			}
			d.History = append(d.History, History{Kind: "lookup", Number: 25, Worker: "w1", StartedAt: now, Outcome: "unclear", Error: word("another reason"), Applied: true})
			d.Acts = []Done{{At: now.Add(-8500 * time.Millisecond), Who: "ann", Why: "it is over", Act: "lookup", Was: "uncertain", Attempt: number(1)}}
		}), open,
			"Lookups 1 to 22, 22 in all, from 2026-11-22 02:59:30.000 UTC to 2026-11-22 02:59:51.000 UTC: each unclear (TaskRouter could not be asked).\n" +
				"At 2026-11-22 02:59:51.500 UTC ann did: lookup of attempt 1 (it was uncertain). Why: it is over.\n" +
				"Lookups 23 to 24, 2 in all, from 2026-11-22 02:59:52.000 UTC to 2026-11-22 02:59:53.000 UTC: each unclear (TaskRouter could not be asked).\n" +
				"Lookup 25 at 2026-11-22 03:00:00.000 UTC by w1: unclear (another reason).\n" +
				"It may exist: attempt 1 could have been under way until 2026-11-22 02:00:00.000 UTC (nothing is recorded). The next lookup is due in 2s. " +
				"This cancels it: it is not sent again.\n" + cancel},
		{"uncertain, lookup due", detail(request.Uncertain, func(d *Detail) { d.Attempt, d.DueAt, d.UncertainSince = 1, when(-time.Second), when(0) }), open,
			"It may exist: attempt 1 could have been under way until 2026-11-22 03:00:00.000 UTC (nothing is recorded). The next lookup is due now. " +
				"This cancels it: it is not sent again.\n" + cancel},
		{"uncertain, cancelled", detail(request.Uncertain, func(d *Detail) {
			d.Attempt, d.DueAt, d.UncertainSince, d.CancelRequestedAt = 1, when(-time.Second), when(0), when(-time.Second)
		}), open,
			"It may exist: attempt 1 could have been under way until 2026-11-22 03:00:00.000 UTC (nothing is recorded). The next lookup is due now. " +
				"It was cancelled at 2026-11-22 02:59:59.000 UTC: it is never sent again; what exists already is adopted all the same.\n"},
		{"uncertain, held", detail(request.Uncertain, func(d *Detail) { d.Attempt, d.DueAt, d.UncertainSince = 1, when(-time.Second), when(0) }),
			gate.Status{State: gate.Held, HeldSince: now, Reason: "a wrong campaign", ChangedBy: "ann"},
			"It may exist: attempt 1 could have been under way until 2026-11-22 03:00:00.000 UTC (nothing is recorded). The next lookup is due now. " +
				"This cancels it: it is not sent again.\n" + cancel},
		{"uncertain, a person", detail(request.Uncertain, func(d *Detail) { d.Attempt, d.ErrorMessage = 1, word("there is no task to look for") }), open,
			"It may exist, and no lookup can tell (there is no task to look for). It waits for a person. Look for it in Flex. Then say that it exists, " +
				"under which sid, or that it does not: it is sent again then, and if you are wrong its customer is contacted twice.\n" + strings.ReplaceAll(decide, "--absent", "--absent --unverified")},
		{"uncertain, a person, and lookups go on", detail(request.Uncertain, func(d *Detail) {
			d.Attempt, d.DueAt, d.ForPersonSince, d.ErrorMessage, d.LookupKey, d.LookupAttribute = 1, when(time.Minute), when(-time.Minute), word("unclear"), word("abc"), word("key")
			d.Workspace = word("WS1")
			d.CancelRequestedAt = when(-time.Second)
		}), open,
			"It may exist, and no lookup can tell (unclear). It waits for a person since 2026-11-22 02:59:00.000 UTC. The next lookup is due in 1m0s. " +
				"It was cancelled at 2026-11-22 02:59:59.000 UTC: it is never sent again; what exists already is adopted all the same. " +
				"Look for it in Flex, by the task attribute key = abc. Then say that it exists, under which sid, or that it does not.\n" + decide},
		{"created by response", detail(request.Created, settled(func(d *Detail) { d.InteractionSID, d.ResolvedBy = word(kdA), word("response") })), open,
			"It is created as " + kdA + " (Flex answered so) since 2026-11-22 02:59:00.000 UTC. " + published},
		{"created by lookup, not published", detail(request.Created, settled(func(d *Detail) {
			d.InteractionSID, d.ResolvedBy, d.PublishedAt = word(kdA), word("lookup"), nil
		})), open,
			"It is created as " + kdA + " (a lookup found it) since 2026-11-22 02:59:00.000 UTC. " +
				"It is not recorded yet that the result stream has its result; the result is published until that is recorded.\n"},
		{"created by operator", detail(request.Created, settled(func(d *Detail) { d.InteractionSID, d.ResolvedBy = word(kdA), word("operator") })), open,
			"It is created as " + kdA + " (an operator said so) since 2026-11-22 02:59:00.000 UTC. " + published},
		{"rejected", detail(request.Rejected, settled(func(d *Detail) { d.ErrorMessage = word("status 400: no such workspace") })), open,
			"It is rejected since 2026-11-22 02:59:00.000 UTC: status 400: no such workspace. A retry sends it. " + published + fmt.Sprintf(retry, 0)},
		{"rejected by the check", detail(request.Rejected, settled(func(d *Detail) {
			d.ErrorKind, d.ErrorMessage = word("invalid"), word("channel.type: required")
		})), open,
			"It is rejected since 2026-11-22 02:59:00.000 UTC: channel.type: required. It failed the check before Flex and would fail it again, so it cannot be retried: " +
				"publish the corrected request under a new request_id. " + published},
		{"abandoned", detail(request.Abandoned, settled(func(d *Detail) { d.ErrorMessage = word("no attempt is left") })), open,
			"It is abandoned since 2026-11-22 02:59:00.000 UTC: no attempt is left. A retry sends it. " + published + fmt.Sprintf(retry, 0)},
		{"abandoned, undecided", detail(request.Abandoned, settled(func(d *Detail) { d.Attempt, d.ErrorKind, d.ErrorMessage = 2, word("undecided"), word("nobody knows") })), open,
			"It is abandoned since 2026-11-22 02:59:00.000 UTC: nobody knows. Nobody knows whether an attempt created it: a retry looks it up and sends it again " +
				"only when it is proved absent. " + published + fmt.Sprintf(retry, 2)},
		{"expired", detail(request.Expired, settled(func(d *Detail) { d.ErrorMessage = word("expires_at passed before it was sent") })), open,
			"It is expired since 2026-11-22 02:59:00.000 UTC: expires_at passed before it was sent. A retry sends it. " + published + fmt.Sprintf(retry, 0)},
		{"cancelled", detail(request.Cancelled, settled(func(d *Detail) { d.ErrorMessage = word("cancelled by an operator") })), open,
			"It is cancelled since 2026-11-22 02:59:00.000 UTC: cancelled by an operator. A retry sends it. " + published + fmt.Sprintf(retry, 0)},
		{"rejected, nothing recorded", detail(request.Rejected, settled(func(d *Detail) { d.ErrorMessage = word("") })), open,
			"It is rejected since 2026-11-22 02:59:00.000 UTC: nothing is recorded. " + "A retry sends it. " + published + fmt.Sprintf(retry, 0)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			begin := begin
			if tt.d.RequestID != "crm-42" {
				begin = strings.NewReplacer("crm-42", tt.d.RequestID, "by crm", `by crm\x1b[2J`).Replace(begin)
			}
			if got := explain(tt.d, tt.g, gate.Fleet{}); got != begin+tt.want {
				t.Errorf("it says\n%s\nwant\n%s", strings.TrimPrefix(got, begin), tt.want)
			}
		})
	}
}

// TestExplainNamesWhoIsStopped: while no worker gets on, a request that waits is explained by what each
// of them met last, not by what the request itself met before.
func TestExplainNamesWhoIsStopped(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 29, 3, 0, 0, 0, time.UTC)
	old, latest, away := "credentials or account are at fault: HTTP 401", "FLEX_URL or a proxy is at fault: HTTP 302", "Flex does not answer"
	d := Detail{Row: Row{RequestID: "r", Source: "crm", State: request.Pending, Attempt: 1, DueAt: &now, ReceivedAt: now, ErrorMessage: &old}, Now: now}
	stopped := gate.Replica{Name: "w1", Alive: true, State: gate.WordUnreachable, Reason: &latest, Since: now}
	failing := gate.Replica{Name: "w2", Alive: true, State: gate.WordFailing, Reason: &away, Since: now}
	works, dead := gate.Replica{Name: "w3", Alive: true, State: gate.WordLimited}, gate.Replica{Name: "w4", State: gate.WordOK}
	for _, tt := range []struct {
		name     string
		replicas []gate.Replica
		want     string // "": nothing about workers
	}{
		{"all are stopped", []gate.Replica{stopped, failing, dead}, "But no worker gets on: w1 is unreachable since 2026-11-29 03:00:00.000 UTC (" + latest + "); w2 is failing since 2026-11-29 03:00:00.000 UTC (" + away + ")."},
		{"one works", []gate.Replica{stopped, works}, ""},
		{"none runs", []gate.Replica{dead}, "But no worker runs."},
	} {
		got := explain(d, gate.Status{State: gate.Open}, gate.Fleet{Now: now, Replicas: tt.replicas})
		if said := strings.Contains(got, "But no worker"); said != (tt.want != "") || !strings.Contains(got, tt.want) || said != strings.Contains(got, "\n    worker fleet\n") {
			t.Errorf("%s:\n%s", tt.name, got)
		}
	}
}
