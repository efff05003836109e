package main

import (
	"encoding/json"
	"strings"
	"testing"

	"flexworker/internal/testing/expect"
	"flexworker/internal/testing/flextest"
)

// typed is one command of a person and what must come of it.
type typed struct {
	args   []string
	status int
	want   []string // in what it writes, to either side
}

func (r *rig) types(env []string, list ...typed) {
	r.t.Helper()
	for _, c := range list {
		status, out, errs := r.try(env, c.args...)
		for _, want := range c.want {
			if !strings.Contains(out+errs, want) {
				r.t.Errorf("worker %s lacks %q", strings.Join(c.args, " "), want)
				status = -1
			}
		}
		if status != c.status {
			r.t.Errorf("worker %s: status %d, want %d:\n%s%s", strings.Join(c.args, " "), status, c.status, out, errs)
		}
	}
}

// TestResolveOfAnother: a request is not settled with the interaction of another.
func TestResolveOfAnother(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	env := r.environment(unhurriedCalls)
	w := r.command(env, "run")
	r.says(w.address, "ok", 200)
	r.flex.Script("u-0", flextest.Reset)
	r.must(`UPDATE outbox_gate SET lookup_at = now() + interval '50 minutes'`) // no lookup meanwhile
	r.send("ok", 0, 1)
	r.send("u", 0, 1)
	expect.Eventually(t, func() error {
		return expect.Is("created or uncertain", r.count(`SELECT count(*) FROM outbox WHERE state IN ('created', 'uncertain')`), 2)
	})
	sid := r.flex.Ledger()[0].InteractionSID
	args := []string{"resolve", "u-0", "--attempt", "1", "--created", sid, "--why", "a slip", "--by", "ann"}
	r.types(env, typed{args, 1, []string{sid + " is the interaction of ok-0", "nothing was changed"}})
	r.types(env, typed{append(args, "--unverified"), 1, []string{sid + " is the interaction of ok-0", "nothing was changed"}})
}

// TestOperator: the verbs as they are typed, over requests that really ran.
func TestOperator(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	in := r.read()
	env := r.environment("UNCERTAIN_POLICY=hold", "LOOKUP_ATTRIBUTE=", unhurriedCalls)
	w := r.command(env, "run")
	r.says(w.address, "ok", 200)
	// Without an attribute nothing can be looked up: what is uncertain waits for a person.
	for id, fault := range map[string]flextest.Fault{"u-0": flextest.CreateThenReset, "u-1": flextest.Reset, "u-2": flextest.Reset, "u-3": flextest.Reset,
		"x-0": flextest.Status(400), "x-1": flextest.Status(400), "x-2": flextest.Status(400)} {
		r.flex.Script(id, fault)
	}
	r.send("ok", 0, 2)
	r.send("u", 0, 4)
	r.send("x", 0, 3)
	expect.Eventually(t, func() error { return expect.Is("settled or waiting", len(in.list()), 9) })
	sid := "" // of what was created for u-0, though nobody was told
	for _, e := range r.flex.Ledger() {
		if e.TestID == "u-0" {
			sid = e.InteractionSID
		}
	}
	const none = "KD0000000000000000000000000000dead"
	args := func(line string) []string { return strings.Fields(line) }
	why := func(line string) []string { return append(args(line), "--why", "a good reason", "--by", "ann") }

	r.types(env,
		typed{args("list"), 0, []string{"REQUEST_ID", "ok-0", "x-2", "http_400"}},
		typed{args("list --state uncertain --json"), 0, []string{`"request_id": "u-0"`, `"state": "uncertain"`}},
		typed{args("list --state abandonned"), 2, []string{"--state abandonned: the states are pending, sending, uncertain, created", "did you mean abandoned?"}},
		typed{args("migrate sideways"), 2, []string{`unknown command "sideways"`}},
		typed{args("migrate"), 2, []string{"say which"}},
		typed{args("explian ok-0"), 2, []string{`unknown command "explian"`, `did you mean "worker explain"?`}},
		typed{args("migrate upp"), 2, []string{`did you mean "worker migrate up"?`}},
		typed{args("list --older-than 3d"), 0, []string{"REQUEST_ID"}},
		typed{args("list --older-than 2w --json"), 0, []string{"[]"}},
		typed{args("list --older-than soon"), 2, []string{"not a duration such as 90m, 12h, 3d or 2w"}},
		typed{args("send --wait -2s x.jsonl"), 2, []string{"--wait must not be negative"}},
		typed{why("retry --where --error-kind http_400 --limit 1"), 1, []string{"would retry 1 request, first x-", "1 sent again", "nothing was changed. Say --yes"}},
		typed{args("list --older-than -5m"), 2, []string{"--older-than must not be negative"}},
		typed{why("cancel --where --settled-within -5m --yes"), 2, []string{"--settled-within must not be negative"}},
		typed{args("list --limit 1 --source crm"), 0, []string{"crm"}},
		typed{args("show nobody"), 1, []string{"no request has the id \"nobody\""}},
		typed{args("explain nobody"), 1, []string{"no request has the id \"nobody\""}},
		typed{args("show ok-0"), 0, []string{`"history": [`, `"outcome": "created"`}},
		typed{args("explain u-0"), 0, []string{"It may exist, and no lookup can tell", "    worker resolve --absent --unverified --attempt 1 --why ... -- u-0\n"}},
		typed{args("explain x-0 --json"), 0, []string{`"request_id": "x-0"`, `It is rejected since`}},
		// Nothing without a reason, and nothing vague.
		typed{args("retry x-0"), 2, []string{`required flag(s) "why" not set`}},
		typed{args("hold"), 2, []string{`required flag(s) "why" not set`}},
		typed{why("retry"), 2, []string{"name the requests to retry, or choose them with --where"}},
		typed{why("retry x-0 --where"), 2, []string{"name the requests to retry, or choose them with --where"}},
		typed{why("retry --where --state nonsense"), 2, []string{"--state nonsense: the states are"}},
		// The wrong state.
		typed{why("retry ok-0"), 1, []string{"there is nothing to retry: ok-0 is created: retry takes what is rejected"}},
		typed{why("cancel ok-0"), 1, []string{"there is nothing to cancel"}},
		typed{why("republish u-0"), 1, []string{"there is nothing to republish"}},
		typed{why("resolve ok-0 --absent"), 1, []string{"ok-0 is not uncertain"}},
		typed{why("resolve u-0"), 2, []string{"[created absent]"}},
		typed{why("resolve u-0 --absent --created " + none), 2, []string{"none of the others can be"}},
		// Every decision names the attempt that it is about.
		typed{why("resolve u-0 --absent"), 2, []string{"nothing was changed", "the latest is attempt 1", "    worker resolve --absent --attempt 1 --why ... -- u-0"}},
		typed{why("resolve u-0 --created " + none), 2, []string{"    worker resolve --created " + none + " --attempt 1 --why ... -- u-0"}},
		typed{why("resolve u-0 --absent --attempt 0"), 1, []string{"u-0: you speak of attempt 0, and the latest is attempt 1", "Since then: attempt 1 by "}},
		typed{why("cancel u-0 --attempt 7"), 1, []string{"there is nothing to cancel: u-0: you speak of attempt 7"}},
		typed{why("cancel u-0 --attempt -1"), 2, []string{"--attempt must not be negative"}},
		typed{why("cancel u-0 u-1 --attempt 1"), 2, []string{"--attempt speaks of one request"}},
		typed{why("erase u-0 --yes"), 1, []string{"u-0 has not settled", "nothing was changed"}},
		typed{why("erase nobody"), 1, []string{`no request has the id "nobody"`}},
		typed{why("erase x-0 --attempt 7 --yes"), 1, []string{"x-0: you speak of attempt 7"}},
		typed{why("erase x-0"), 1, []string{"would erase the content of x-0, which is rejected", "Twilio: the task's attributes", "nothing was changed"}},
		typed{why("resolve nobody --absent"), 1, []string{`no request has the id "nobody"`}},
		// What is believed.
		typed{why("resolve u-0 --attempt 1 --created KD12"), 1, []string{"KD12"}},
		typed{why("resolve u-0 --attempt 1 --created KD12 --unverified"), 1, []string{"KD12 is not the sid of an interaction"}},
		typed{why("resolve u-0 --attempt 1 --created " + none), 1, []string{none + " is not shown by Flex", "nothing was changed"}},
	)
	if n := r.count(`SELECT count(*) FROM outbox_acts`); n != 0 {
		t.Errorf("%d acts are recorded of what was refused", n)
	}
	// What may still be found is not declared absent in passing.
	postpone := func(due string) {
		if _, err := r.pool.Exec(t.Context(), `UPDATE outbox SET due_at = `+due+`, for_person_since = CASE WHEN `+due+` IS NULL THEN clock_timestamp() END WHERE request_id = 'u-1'`); err != nil {
			t.Fatal(err)
		}
	}
	postpone(`clock_timestamp() + interval '1 hour'`)
	r.types(env, typed{why("resolve u-1 --attempt 1 --absent"), 1, []string{"u-1 is still looked up", "--unverified"}})
	postpone(`NULL`)
	r.types(env,
		typed{why("resolve u-0 --attempt 1 --created " + sid), 0, []string{"u-0 is now created"}},
		typed{why("resolve u-0 --created " + sid), 1, []string{"u-0 is not uncertain"}},
		typed{why("resolve u-2 --attempt 1 --json --unverified --created " + none), 0, []string{`"state": "created"`, none}},
		typed{why("resolve u-1 --attempt 1 --absent"), 1, []string{"There is no task to look for", "that u-1 does not exist is not proved: nothing was changed", "--absent --unverified"}},
		typed{why("resolve u-1 --attempt 1 --absent --unverified"), 0, []string{"u-1 is now "}},
		// More than one says first what it would do.
		typed{why("retry --where --state rejected"), 1, []string{"would retry 3 requests", "x-0", "would be: 3 sent again", "nothing was changed. Say --yes"}},
		typed{why("retry --where --state rejected --json"), 1, []string{`"would_change": 3`}},
		typed{why("retry --where --error-kind http_404"), 1, []string{"there is nothing to retry"}},
		typed{why("retry x-0"), 0, []string{"retry: 1 request: x-0"}},
		typed{why("retry --where --state rejected --settled-within 1h --yes --json"), 0, []string{`"changed": [`, `"x-1"`}},
	)
	final := func(id, outcome string, n int) {
		t.Helper()
		expect.Eventually(t, func() error {
			all := in.final()[id]
			if len(all) != n || all[n-1].Body.Outcome != outcome {
				return expect.Is("final results of "+id, len(all), n)
			}
			return nil
		})
	}
	final("u-0", "created", 1)
	final("u-1", "created", 1) // sent again
	final("u-2", "created", 1)
	for _, id := range []string{"x-0", "x-1", "x-2"} {
		final(id, "created", 2)
	}
	r.types(env, typed{why("hold"), 0, []string{"hold: the gate is now held"}})
	// Held, the fleet takes what comes and sends nothing.
	r.says(w.address, "held", 200)
	calls := r.flex.Calls().Received
	r.send("h", 0, 3)
	expect.Eventually(t, func() error {
		return expect.Is("stored", r.count(`SELECT count(*) FROM outbox WHERE request_id LIKE 'h-%' AND state = 'pending'`), 3)
	})
	r.types(env,
		typed{args("explain h-0"), 0, []string{"But the gate is held by ann since", "a good reason", "    worker release --why ...\n"}},
		// Who names one that cannot be changed hears which, also when others were.
		typed{why("cancel ok-0 h-0 h-9"), 1, []string{"cancel: 1 request: h-0", "not changed: ok-0 is created", `no request has the id "h-9"`}},
		typed{why("cancel --where --state pending --source nobody --yes"), 1, []string{"there is nothing to cancel"}},
	)
	final("h-0", "cancelled", 1)
	if n := r.flex.Calls().Received; n != calls {
		t.Errorf("%d calls while held", n-calls)
	}
	r.types(env, typed{why("release --json"), 0, []string{`"state": "ok"`, `"held_since": null`, `"reason": null`}})
	final("h-1", "created", 1)
	final("h-2", "created", 1)
	r.says(w.address, "ok", 200)
	messages := r.results()
	r.types(env,
		typed{why("republish ok-0"), 0, []string{"republish: 1 request: ok-0"}},
		typed{why("republish --where --settled-within 1h"), 1, []string{"would republish", "nothing was changed"}},
	)
	expect.Eventually(t, func() error {
		return expect.Is("unpublished", r.count(`SELECT count(*) FROM outbox WHERE settled_at IS NOT NULL AND published_at IS NULL`), 0)
	})
	if n := r.results(); n != messages {
		t.Errorf("the stream took %d messages again", n-messages)
	}
	// What is erased balances all the same. A mark may come after its result.
	expect.Eventually(t, func() error {
		return expect.Is("unpublished", r.count(`SELECT count(*) FROM outbox WHERE settled_at IS NOT NULL AND published_at IS NULL`), 0)
	})
	r.types(env, typed{why("erase ok-0 --yes"), 0, []string{"erased: the content of ok-0", "INTERACTION_REQUESTS, by their sequences: 1.", "backups"}},
		typed{why("erase ok-1 --yes --json"), 0, []string{`"erased": "ok-1"`, `"stream_sequence": "2"`}})
	if n := r.count(`SELECT count(*) FROM outbox WHERE request::text LIKE '%ok-0"%' OR response::text LIKE '%ok-0%'`); n != 0 {
		t.Error("the content of ok-0 is still there")
	}
	if n := r.count(`SELECT count(*) FROM outbox_acts WHERE who <> 'ann' OR why NOT IN ('a good reason', 'erased')`); n != 0 {
		t.Errorf("%d acts of nobody", n)
	}
	if n := r.count(`SELECT count(*) FROM outbox_acts`); n != 3+3+1+1+1+1+2 { // resolve, retry, hold, cancel, release, republish, erase
		t.Errorf("%d acts are recorded", n)
	}
	r.auditFinds(env)
	stopped(t, w)
}

// results is how many messages the result stream has.
func (r *rig) results() int {
	r.t.Helper()
	stream, err := r.js.Stream(r.t.Context(), "INTERACTION_RESULTS")
	if err != nil {
		r.t.Fatal(err)
	}
	return int(stream.CachedInfo().State.Msgs)
}

// auditFinds checks what `worker audit` says of an account that balances, and of
// one that does not; u-3 waits for a person all the while.
func (r *rig) auditFinds(env []string) {
	t := r.t
	t.Helper()
	r.types(env,
		typed{[]string{"audit"}, 0, []string{"requests created", "messages on the result stream", "The account balances.\n"}},
		typed{[]string{"audit", "--tables-only"}, 0, []string{"requests uncertain"}},
	)
	var kept string
	if err := r.pool.QueryRow(t.Context(), `UPDATE outbox SET interaction_sid = 'KD' || repeat('e', 32) FROM outbox AS was
		WHERE outbox.id = was.id AND outbox.request_id = 'ok-0' RETURNING was.interaction_sid`).Scan(&kept); err != nil {
		t.Fatal(err)
	}
	r.types(env,
		typed{[]string{"audit"}, 1, []string{"BROKEN every settled request has exactly one final result on the stream, with its sid: ok-0", kept, "the account does not balance: 1 offenders"}},
		typed{[]string{"audit", "--tables-only"}, 0, nil},
	)
	status, out, _ := r.try(env, "audit", "--json")
	var report struct {
		Counts []struct {
			What string `json:"what"`
			N    int64  `json:"n"`
		} `json:"counts"`
		Offenders []struct {
			Rule string `json:"rule"`
			ID   string `json:"id"`
			Why  string `json:"why"`
		} `json:"offenders"`
	}
	if err := json.Unmarshal([]byte(out), &report); err != nil || status != 1 || len(report.Offenders) != 1 || report.Offenders[0].ID != "ok-0" || len(report.Counts) < 8 {
		t.Errorf("audit --json: status %d, %v\n%s", status, err, out)
	}
	if _, err := r.pool.Exec(t.Context(), `UPDATE outbox SET interaction_sid = $1 WHERE request_id = 'ok-0'`, kept); err != nil {
		t.Fatal(err)
	}
	r.types(env,
		typed{[]string{"audit"}, 0, nil},
		typed{[]string{"audit", "--json"}, 0, []string{`"offenders": []`}},
		typed{[]string{"list", "--state", "expired", "--json"}, 0, []string{"[]"}},
	)
	// What was purged cannot be held against the table: then it must not be said that all of it balances.
	results, err := r.js.Stream(t.Context(), "INTERACTION_RESULTS")
	if err != nil {
		t.Fatal(err)
	}
	if err := results.Purge(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.types(env, typed{[]string{"audit"}, 0, []string{"published results that the stream no longer has", "The account balances, as far back as the result stream goes.\n"}})
	r.types(append(env, "RESULTS_STREAM=OTHER"), typed{[]string{"audit"}, 2, []string{"there is no stream OTHER (RESULTS_STREAM)", "--tables-only"}})
}
