package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"flexworker/internal/testing/expect"
	"flexworker/internal/testing/flextest"
	"flexworker/internal/testing/natstest"
)

// bodies are the requests that docs/sending.md shows, one for each case.
func bodies(t *testing.T) (list []string) {
	t.Helper()
	text, err := os.ReadFile("../../docs/sending.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(text), "\n## A body for each case\n")
	section, _, _ = strings.Cut(section, "\n## ")
	for _, block := range strings.Split(section, "```json\n")[1:] {
		body, _, _ := strings.Cut(block, "```")
		list = append(list, body)
	}
	return list
}

// TestBodiesOfSendingPage: the strict imitation of Flex takes each of them, and nothing in them is warned of.
func TestBodiesOfSendingPage(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.start(r.unhurried())
	in := r.read()
	list := bodies(t)
	if len(list) < 7 {
		t.Fatalf("docs/sending.md has %d bodies", len(list))
	}
	for _, body := range list {
		if _, err := r.js.Publish(t.Context(), "interactions.requests.crm", []byte(body)); err != nil {
			t.Fatal(err)
		}
	}
	r.eventually(func() error { return expect.Is("results", in.ended(), len(list)) })
	for _, result := range in.list() {
		if got := result.Body; got.Outcome != "created" || string(got.Warnings) != "[]" || got.Attempts != 1 {
			t.Errorf("%s is %s after %d attempts, warnings %s, error %s", got.RequestID, got.Outcome, got.Attempts, got.Warnings, got.Error)
		}
	}
}

// trial is a line of "Try each answer" in docs/sending.md: what the imitation does with the next calls, a request to cancel, or a
// message and its answer, if the line shows one.
var trial = regexp.MustCompile(`(?m)^    (?:(?:for n in ([\d ]+); do )?next ([^\s;]+)(?:; done)?|go run ./examples/go cancel (\S+) ".*"|(?:try|echo) '(.*)'.*?(?:  # (.+))?)$`)

// TestEachAnswerOfSendingPage: each command of the page brings the outcome and the kind of error that stand behind it.
func TestEachAnswerOfSendingPage(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../docs/sending.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(text), "\n## Try each answer\n")
	section, _, _ = strings.Cut(section, "\n## ")
	r := newRig(t)
	r.start(r.unhurried())
	in, tried := r.read(), 0
	for _, line := range trial.FindAllStringSubmatch(section, -1) {
		times, fault, cancelled, body, want := strings.Fields(line[1]), line[2], line[3], line[4], line[5]
		if fault != "" {
			r.flex.Next(slices.Repeat([]flextest.Fault{flextest.Fault(fault)}, max(len(times), 1))...)
			continue
		}
		if cancelled != "" {
			expect.Eventually(t, func() error { // not known, until its message is read
				answer, err := r.js.Conn().Request("interactions.cancel.crm", []byte(`{"request_id": "`+cancelled+`", "why": "the customer called"}`), time.Second)
				if err != nil {
					return err
				}
				return expect.Is(string(answer.Data), answer.Header.Get("Nats-Service-Error-Code"), "")
			})
			continue
		}
		ack, err := r.js.Publish(t.Context(), "interactions.requests.crm", []byte(body))
		if err != nil {
			t.Fatal(err)
		}
		if want == "" {
			continue
		}
		tried++
		expect.Eventually(t, func() error {
			for _, result := range in.list() {
				if result.Body.Sequence != ack.Sequence {
					continue
				}
				var said struct{ Kind string }
				if err := json.Unmarshal(result.Body.Error, &said); err != nil {
					return err
				}
				return expect.Is(body, strings.TrimSpace(result.Body.Outcome+" "+said.Kind), want)
			}
			return errors.New("no answer to " + body)
		})
	}
	if tried < 9 {
		t.Errorf("%d commands were found", tried)
	}
	var none flextest.Fault
	said := none.UnmarshalText([]byte("none")).Error() // it lists them
	_, list, _ := strings.Cut(said, "a status from 300 to 599, ")
	list, _, _ = strings.Cut(list, ", each also after")
	for word := range strings.SplitSeq(list, ", ") {
		if !strings.Contains(section, "`"+word+"`") {
			t.Errorf("the page does not list the fault %q of: %s", word, said)
		}
	}
}

// serviceRig is a rig with the user crm, who may do what docs/sending.md says of a service that sends and reads.
func serviceRig(t *testing.T) *rig {
	t.Helper()
	_, users := rights(t)
	may := of(t, users, "a service crm that sends", "a service crm that asks for its requests, and cancels them", "a service crm that reads its results with a durable consumer crm")
	return rigWith(t, migrated.NewDSN(t), natstest.Options{Users: []natstest.User{{Name: "crm", Password: "a-password", Publish: may.publish, Subscribe: may.subscribe}}})
}

// TestExamples: the programs of examples/ send a request, read results durably and find their own, with the permissions of
// docs/sending.md and no more: what came while nobody read, a request that is asked again, and a NATS server that restarts.
func TestExamples(t *testing.T) {
	t.Parallel()
	for name, build := range map[string]func(t *testing.T) []string{"go": goExample, "node": nodeExample} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := example{rig: serviceRig(t), program: build(t)}
			e.rig.start(e.rig.config())
			body := bodies(t)[0]
			e.rig.send("earlier", 0, 1)
			expect.Eventually(t, func() error {
				return expect.Is("published", e.rig.count(`SELECT count(*) FROM outbox WHERE published_at IS NOT NULL`), 1)
			})
			sending := e.runs(body)
			first := e.ends(sending)
			if len(first) != 1 || first[0].RequestID != "crm-42-callback" || first[0].Outcome != "created" {
				t.Fatalf("it shows %+v", first)
			}
			if said := sending.log.String(); strings.Count(said, "kept: ") != 1 || !strings.Contains(said, "kept: created, the answer to message 1\n") {
				t.Errorf("of what came while nobody read it says %s", said)
			}
			again := e.ends(e.runs(body))
			if len(again) != 1 || again[0].InteractionSID != first[0].InteractionSID || again[0].Sequence <= first[0].Sequence {
				t.Errorf("asked again, it read %+v after %+v", again, first)
			}
			e.asks()
			e.restart(strings.Replace(body, "crm-42-callback", "crm-43", 1))
			if n := len(e.rig.flex.Ledger()); n != 3 {
				t.Errorf("Flex has created %d interactions", n)
			}
		})
	}
}

// goExample builds examples/go and says how it is run.
func goExample(t *testing.T) []string {
	t.Helper()
	program := filepath.Join(t.TempDir(), "example")
	if out, err := exec.Command("go", "build", "-o", program, "../../examples/go").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return []string{program}
}

// nodeExample installs what examples/node needs, in a folder of its own, and says how it is run.
func nodeExample(t *testing.T) []string {
	t.Helper()
	for _, program := range []string{"node", "npm"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Fatalf("the example in Node is not tried, since %s is missing: scripts/node.sh installs Node 18 or later, or says how", program)
		}
	}
	folder := t.TempDir()
	for _, name := range []string{"main.js", "package.json", "package-lock.json"} {
		text, err := os.ReadFile("../../examples/node/" + name)
		if err == nil {
			err = os.WriteFile(filepath.Join(folder, name), text, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	install := exec.Command("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--prefer-offline")
	install.Dir = folder
	if out, err := install.CombinedOutput(); err != nil {
		t.Fatalf("npm ci: %v\n%s", err, out)
	}
	return []string{"node", filepath.Join(folder, "main.js")}
}

// example is a program of examples/ in a rig.
type example struct {
	rig     *rig
	program []string
}

// runs starts it with a request at its standard input.
func (e example) runs(body string) *child {
	e.rig.t.Helper()
	in := filepath.Join(e.rig.t.TempDir(), "request.json")
	if err := os.WriteFile(in, []byte(body), 0o600); err != nil {
		e.rig.t.Fatal(err)
	}
	script := append([]string{"-c", `exec "$@" <"$0"`, in}, e.program...)
	with := rig{t: e.rig.t, program: "/bin/sh"}
	return with.command(append(os.Environ(), "NATS_URL="+e.rig.nats.URLFor("crm")), script...)
}

// asks asks for a request that no worker has read yet, which is not known until one has; cancels it; asks what is wrong, which it
// does not ask again; and asks for what nobody has sent until it gives up.
func (e example) asks() {
	t := e.rig.t
	t.Helper()
	never := e.questions("status", "never")
	waiting := e.questions("status", "crm-44")
	expect.Eventually(t, func() error {
		if said := waiting.log.String(); !strings.Contains(said, "asking again: 404: ") {
			return fmt.Errorf("it says %q", said)
		}
		return nil
	})
	later := strings.Replace(string(requestOf("crm-44")), `{"request_id"`, fmt.Sprintf(`{"not_before":%q,"request_id"`, time.Now().Add(time.Hour).UTC().Format(time.RFC3339)), 1)
	if _, err := e.rig.js.Publish(t.Context(), "interactions.requests.crm", []byte(later)); err != nil {
		t.Fatal(err)
	}
	answers := func(c *child, want string) {
		t.Helper()
		if status := c.exit(); status != 0 || !strings.Contains(c.out.String(), want) {
			t.Errorf("status %d, %s%s, want %s", status, c.out.String(), c.log.String(), want)
		}
	}
	answers(waiting, `"state":"pending"`)
	answers(e.questions("cancel", "crm-44", "the customer called"), `"cancelled":true`)
	for c, want := range map[*child]string{e.questions("cancel", "crm-44", ""): "why: must not be empty", never: "no worker may have read it yet"} {
		if status := c.exit(); status == 0 || !strings.Contains(c.log.String(), want) || denied.MatchString(c.log.String()) {
			t.Errorf("status %d, %s, want %q", status, c.log.String(), want)
		}
	}
}

// questions starts it with a question.
func (e example) questions(args ...string) *child {
	e.rig.t.Helper()
	with := rig{t: e.rig.t, program: e.program[0]}
	return with.command(append(os.Environ(), "NATS_URL="+e.rig.nats.URLFor("crm")), append(slices.Clone(e.program[1:]), args...)...)
}

// a read is what an example has printed of an answer to its message.
type read struct {
	RequestID      string `json:"request_id"`
	Outcome        string `json:"outcome"`
	InteractionSID string `json:"interaction_sid"`
	Sequence       uint64 `json:"sequence"`
}

// ends waits for the end of an example, which must be a good one without a word of permissions, and returns what it has read.
func (e example) ends(c *child) (list []read) {
	t := e.rig.t
	t.Helper()
	if status := c.exit(); status != 0 {
		t.Fatalf("it ends with status %d: %s", status, c.log.String())
	}
	if denied.MatchString(c.log.String()) {
		t.Errorf("it wrote %s", c.log.String())
	}
	for line := range strings.Lines(c.out.String()) {
		var r read
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			t.Errorf("%v: %s", err, line)
		}
		list = append(list, r)
	}
	return list
}

// restart restarts the NATS server while an example waits for its result.
func (e example) restart(body string) {
	t := e.rig.t
	t.Helper()
	env := e.rig.environment()
	if status, _, errs := e.rig.try(env, "hold", "--why", "a test"); status != 0 {
		t.Fatal(errs)
	}
	waiting := e.runs(body)
	expect.Eventually(t, func() error {
		if !strings.Contains(waiting.log.String(), "sent: ") {
			return errors.New("it has not sent yet")
		}
		c, err := e.rig.js.Consumer(t.Context(), "INTERACTION_RESULTS", "crm")
		if err == nil && c.CachedInfo().NumWaiting == 0 {
			err = errors.New("it does not read yet")
		}
		return err
	})
	if err := e.rig.nats.Restart(); err != nil {
		t.Fatal(err)
	}
	if status, _, errs := e.rig.try(env, "release", "--why", "a test"); status != 0 {
		t.Fatal(errs)
	}
	if got := e.ends(waiting); len(got) != 1 || got[0].RequestID != "crm-43" || got[0].Outcome != "created" {
		t.Errorf("after a restart of NATS it read %+v", got)
	}
}

// TestReaderReadsItsOwnAlone: the permissions of docs/sending.md let a service make its own consumer, and none that reads
// what others asked for, whatever it writes into the message that makes it.
func TestReaderReadsItsOwnAlone(t *testing.T) {
	t.Parallel()
	r := serviceRig(t)
	refused := make(chan error, 10)
	conn, err := nats.Connect(r.nats.URLFor("crm"), nats.CustomInboxPrefix("_INBOX.crm"), nats.Timeout(expect.Patience),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { refused <- err }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	const api, own = "$JS.API.CONSUMER.CREATE.INTERACTION_RESULTS.", "crm.interactions.results.*.crm"
	config := func(name, filter string) string {
		return fmt.Sprintf(`{"stream_name":"INTERACTION_RESULTS","config":{"durable_name":%q,"name":%q,"ack_policy":"explicit",%s}}`, name, name, filter)
	}
	make := func(subject, body string) error {
		ctx, cancel := context.WithCancelCause(t.Context())
		defer cancel(nil)
		done := make(chan struct{})
		go func() {
			select {
			case err := <-refused:
				cancel(err)
			case <-done:
			}
		}()
		m, err := conn.RequestWithContext(ctx, api+subject, []byte(body))
		close(done)
		if err != nil {
			return errors.Join(err, context.Cause(ctx))
		}
		var answer struct{ Error *jetstream.APIError }
		if err := json.Unmarshal(m.Data, &answer); err != nil {
			return err
		}
		if answer.Error != nil {
			return answer.Error
		}
		return nil
	}
	const mine, all, shop = `"filter_subject":"interactions.results.*.crm"`, `"filter_subject":"interactions.results.>"`, `"filter_subject":"interactions.results.*.shop"`
	for what, c := range map[string][2]string{
		"another filter":                       {"crm.interactions.results.*.shop", config("crm", shop)},
		"no filter":                            {"crm", config("crm", `"description":"all"`)},
		"another name":                         {"shop.interactions.results.*.crm", config("shop", mine)},
		"its own subject, all in the body":     {own, config("crm", all)},
		"its own subject, another in the body": {own, config("crm", shop)},
		"its own subject, a list in the body":  {own, config("crm", `"filter_subjects":["interactions.results.>"]`)},
		"its own subject, no filter":           {own, config("crm", `"description":"all"`)},
	} {
		if err := make(c[0], c[1]); err == nil {
			t.Errorf("%s: it may make that consumer", what)
		}
	}
	if err := make(own, config("crm", mine)); err != nil {
		t.Errorf("its own: %v", err)
	}
}

// TestLimitsOfSendingPage: what docs/sending.md says that NATS refuses is refused, and what is just below is taken.
func TestLimitsOfSendingPage(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	publish := func(header, body int) error {
		m := nats.NewMsg("interactions.requests.crm")
		m.Header.Set("X-Filler", strings.Repeat("h", header-len("NATS/1.0\r\nX-Filler: \r\n\r\n")))
		m.Data = []byte(strings.Repeat("b", body))
		_, err := r.js.PublishMsg(t.Context(), m)
		return err
	}
	const mebibyte, headers = 1 << 20, 65535
	if err := publish(100, mebibyte-100); err != nil {
		t.Errorf("1 MiB: %v", err)
	}
	if err := publish(100, mebibyte-99); !errors.Is(err, nats.ErrMaxPayload) {
		t.Errorf("1 MiB and one byte: %v", err)
	}
	if err := publish(headers, 1); err != nil {
		t.Errorf("headers of %d bytes: %v", headers, err)
	}
	var api *jetstream.APIError
	if err := publish(headers+1, 1); !errors.As(err, &api) {
		t.Errorf("headers of %d bytes: %v", headers+1, err)
	}
}
