package main

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"flexworker/internal/testing/expect"
	"flexworker/internal/testing/flextest"
)

// askedAs asks a question of a sender, with the rights of conn.
func askedAs(t *testing.T, conn *nats.Conn, subject, id string) (body map[string]any, code string) {
	t.Helper()
	question := fmt.Sprintf(`{"request_id":%q}`, id)
	if strings.Contains(subject, ".cancel.") {
		question = fmt.Sprintf(`{"request_id":%q,"why":"the customer called"}`, id)
	}
	m, err := conn.Request(subject, []byte(question), expect.Patience)
	if err != nil {
		t.Fatalf("%s: %v", subject, err)
	}
	if err := json.Unmarshal(m.Data, &body); err != nil {
		t.Fatalf("%s: %v: %s", subject, err, m.Data)
	}
	return body, m.Header.Get(micro.ErrorCodeHeader)
}

// TestSenders: two replicas answer a sender: before the call, during the call, and afterwards; what is cancelled gets its
// result.
func TestSenders(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	first, second := r.start(r.unhurried()), r.start(r.unhurried())
	r.says(first.cfg.AdminAddr, "ok", 200)
	r.says(second.cfg.AdminAddr, "ok", 200)
	in, conn := r.read(), r.nats.Connect(t)
	known := func(id, state string) {
		t.Helper()
		expect.Eventually(t, func() error {
			body, code := askedAs(t, conn, "interactions.status.crm", id)
			return expect.Is(id+" "+code, fmt.Sprint(body["state"]), state)
		})
	}

	later := strings.Replace(string(requestOf("later")), `{"request_id"`, fmt.Sprintf(`{"not_before":%q,"request_id"`, time.Now().Add(time.Hour).UTC().Format(time.RFC3339)), 1)
	if _, err := r.js.Publish(t.Context(), "interactions.requests.crm", []byte(later)); err != nil {
		t.Fatal(err)
	}
	known("later", "pending")
	if body, code := askedAs(t, conn, "interactions.cancel.shop", "later"); code != "404" {
		t.Errorf("of another source: %v, %s", body, code)
	}
	if body, code := askedAs(t, conn, "interactions.cancel.crm", "later"); code != "" || body["cancelled"] != true {
		t.Errorf("in time: %v, %s", body, code)
	}

	r.flex.Script("now-0", flextest.Hang)
	r.send("now", 0, 1)
	known("now-0", "sending")
	if body, _ := askedAs(t, conn, "interactions.cancel.crm", "now-0"); body["cancelled"] != false || body["state"] != "sending" {
		t.Errorf("while its call is under way: %v", body)
	}
	r.flex.Release()
	r.send("done", 0, 1)
	known("done-0", "created")
	if body, _ := askedAs(t, conn, "interactions.cancel.crm", "done-0"); body["cancelled"] != false || body["state"] != "created" {
		t.Errorf("too late: %v", body)
	}
	expect.Eventually(t, func() error {
		return expect.Is("cancelled results", in.subjects()["interactions.results.cancelled.crm"], 1)
	})
	// A replica that is told to stop answers no more; the other does.
	first.stop()
	first.wait()
	known("done-0", "created")
}

// TestSendersMayNot: without the permissions for senders' questions, or for the answers, the worker goes on and says what
// is missing.
func TestSendersMayNot(t *testing.T) {
	t.Parallel()
	grants, users := rights(t)
	worker := of(t, users, "worker")
	var deaf []string
	for _, subject := range worker.subscribe {
		if !strings.HasPrefix(subject, "interactions.") && !strings.HasPrefix(subject, "$SRV") {
			deaf = append(deaf, subject)
		}
	}
	if len(deaf) != len(worker.subscribe)-3 {
		t.Fatalf("docs/operating.md lists %v", worker.subscribe)
	}
	for name, c := range map[string]struct{ subscribe, said []string }{
		"questions": {deaf, []string{`"interactions.status.>"`, `"interactions.cancel.>"`, `"$SRV.`}},
		"answers":   {worker.subscribe, []string{`Publish to "_INBOX.`}}, // which it lacks here
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			publish := slices.DeleteFunc(slices.Clone(worker.publish), func(subject string) bool { return subject == "_INBOX.>" })
			r, cfg := poorRig(t, grants, publish, c.subscribe)
			out, conn := r.startLogged(cfg), r.nats.Connect(t)
			expect.Eventually(t, func() error {
				if err := conn.PublishRequest("interactions.status.crm", conn.NewInbox(), []byte(`{"request_id":"none"}`)); err != nil {
					return err
				}
				for _, subject := range c.said {
					if !strings.Contains(strings.ReplaceAll(out.String(), `\`, ""), subject) {
						return fmt.Errorf("nothing is said of %s", subject)
					}
				}
				return nil
			})
			r.says(cfg.AdminAddr, "ok", 200)
		})
	}
}

// TestAnswersOfTheLibrary: NATS's library answers $SRV.INFO on any subject that the question names. The permissions of
// docs/operating.md keep that from the request stream, and questions with an inbox are answered.
func TestAnswersOfTheLibrary(t *testing.T) {
	t.Parallel()
	grants, users := rights(t)
	worker := of(t, users, "worker")
	r, cfg := poorRig(t, grants, worker.publish, worker.subscribe)
	out, conn := r.startLogged(cfg), r.nats.Connect(t)
	r.says(cfg.AdminAddr, "ok", 200)
	if err := conn.PublishRequest("$SRV.INFO", "interactions.requests.crm", nil); err != nil {
		t.Fatal(err)
	}
	expect.Eventually(t, func() error {
		if !strings.Contains(strings.ReplaceAll(out.String(), `\`, ""), `Publish to "interactions.requests.crm"`) {
			return fmt.Errorf("the server does not refuse it: %s", out)
		}
		return nil
	})
	if m, err := conn.Request("$SRV.INFO", nil, expect.Patience); err != nil || !strings.Contains(string(m.Data), `"name":"flexworker"`) {
		t.Errorf("with an inbox: %v", err)
	}
	stream, err := r.js.Stream(t.Context(), "INTERACTION_REQUESTS")
	if err != nil {
		t.Fatal(err)
	}
	if n := stream.CachedInfo().State.LastSeq; n != 0 {
		t.Errorf("%d messages came to the request stream", n)
	}
}
