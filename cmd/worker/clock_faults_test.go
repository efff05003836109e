//go:build faults

package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"flexworker/internal/testing/expect"
	"flexworker/internal/testing/flextest"
	"flexworker/internal/testing/pgtest"
)

// skewed builds the worker with a clock that a test can set: Go reads the clock without libc, so the one change is made in
// the standard library itself, by an overlay. SKEW_FILE holds by how many seconds it goes wrong; SIGUSR1 has it read again.
// The monotonic clock stays right, as it does where a person sets the clock of a machine.
var skewed = sync.OnceValues(func() (string, error) {
	out, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		return "", err
	}
	lib := filepath.Join(strings.TrimSpace(string(out)), "src", "time")
	source, err := os.ReadFile(filepath.Join(lib, "time.go"))
	if err != nil {
		return "", err
	}
	const reads = "\tsec, nsec, mono := runtimeNow()\n"
	if n := strings.Count(string(source), reads); n != 1 {
		return "", fmt.Errorf("time.Now of this Go reads the clock otherwise: %d places", n)
	}
	here, err := os.Getwd()
	if err != nil {
		return "", err
	}
	replaced := map[string]string{}
	for path, text := range map[string]string{
		filepath.Join(lib, "time.go"): strings.Replace(string(source), reads, reads+"\tsec += skew.Load()\n", 1),
		filepath.Join(lib, "skew.go"): "package time\n\nimport \"sync/atomic\"\n\nvar skew atomic.Int64\n\nfunc SetSkew(seconds int64) { skew.Store(seconds) }\n",
		filepath.Join(here, "skew.go"): `package main

import (
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func init() {
	set := func() {
		text, _ := os.ReadFile(os.Getenv("SKEW_FILE"))
		var seconds int64
		fmt.Sscan(string(text), &seconds)
		time.SetSkew(seconds)
	}
	set()
	again := make(chan os.Signal, 1)
	signal.Notify(again, syscall.SIGUSR1)
	go func() {
		for range again {
			set()
		}
	}()
}
`} {
		at := filepath.Join(folder, "overlay-"+strings.ReplaceAll(path, string(filepath.Separator), "-"))
		if err := os.WriteFile(at, []byte(text), 0o600); err != nil {
			return "", err
		}
		replaced[path] = at
	}
	text, err := json.Marshal(map[string]any{"Replace": replaced})
	if err != nil {
		return "", err
	}
	overlay, program := filepath.Join(folder, "overlay.json"), filepath.Join(folder, "skewed")
	if err := os.WriteFile(overlay, text, 0o600); err != nil {
		return "", err
	}
	if out, err := exec.Command("go", "build", "-buildvcs=false", "-overlay", overlay, "-o", program, ".").CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return program, nil
})

// troubled has every tenth create made and then cut, and every tenth cut before: both have to be found out about.
func (r *rig) troubled() {
	r.flex.Inject(flextest.Rule{Fault: flextest.CreateThenReset, Share: 0.1})
	r.flex.Inject(flextest.Rule{Fault: flextest.Reset, Share: 0.1})
	r.flex.SetTaskRouter(flextest.TaskRouter{Rate: -1})
}

// later sends a request that may be sent in three seconds and expires in half an hour, by the clock of this test, and one
// that has expired an hour ago.
func (r *rig) later(id string) {
	r.t.Helper()
	now := time.Now()
	for _, one := range []struct {
		id, field string
		at        time.Time
	}{{id, "expires_at", now.Add(30 * time.Minute)}, {id + "-waits", "not_before", now.Add(3 * time.Second)}, {id + "-late", "expires_at", now.Add(-time.Hour)}} {
		body := strings.Replace(string(requestOf(one.id)), `{`, fmt.Sprintf(`{%q:%q,`, one.field, one.at.UTC().Format(time.RFC3339Nano)), 1)
		if _, err := r.js.Publish(r.t.Context(), "interactions.requests.crm", []byte(body)); err != nil {
			r.t.Fatal(err)
		}
	}
}

// settled waits until so many requests are created and so many expired, each with its result, and nothing exists twice.
func (r *rig) settled(created, expired int) {
	t := r.t
	t.Helper()
	expect.EventuallyWithin(t, 2*expect.Patience, func() error {
		return expect.Is("created and expired", fmt.Sprint(r.count(`SELECT count(*) FROM outbox WHERE state = 'created' AND published_at IS NOT NULL`), " ",
			r.count(`SELECT count(*) FROM outbox WHERE state = 'expired' AND published_at IS NOT NULL`), ": ", r.states()),
			fmt.Sprint(created, " ", expired, ": ", r.states()))
	})
	if twice := r.flex.Duplicates(); len(twice) > 0 {
		t.Errorf("created more than once: %v", twice)
	}
	if n := len(r.flex.Ledger()); n != created {
		t.Errorf("Flex has created %d, want %d", n, created)
	}
}

// TestClocksOfReplicas: the clock of one replica is an hour ahead and of another an hour behind. Under load the first is
// set back by two hours and the second ahead by two. Leases, deadlines and lookups go by Postgres's clock, so nothing changes.
func TestClocksOfReplicas(t *testing.T) {
	program, err := skewed()
	if err != nil {
		t.Fatal(err)
	}
	r := newRig(t)
	r.program = program
	r.troubled()
	var files []string
	var fleet []*child
	set := func(i, seconds int) {
		t.Helper()
		rotate(t, files[i], fmt.Sprint(seconds))
	}
	for i, seconds := range []int{3600, -3600, 0} {
		files = append(files, filepath.Join(t.TempDir(), "skew"))
		set(i, seconds)
		w := r.command(r.environment("SKEW_FILE="+files[i], "UNCERTAIN_POLICY=hold"), "run")
		r.says(w.address, "ok", 200)
		fleet = append(fleet, w)
	}
	hour := func(w *child) int { // of the last line of its log, ahead of this test's clock
		lines := strings.Split(strings.TrimSpace(w.log.String()), "\n")
		var one struct{ Time time.Time }
		if err := json.Unmarshal([]byte(lines[len(lines)-1]), &one); err != nil {
			t.Fatal(err)
		}
		return int(time.Until(one.Time).Round(time.Hour).Hours())
	}
	if at := fmt.Sprint(hour(fleet[0]), hour(fleet[1]), hour(fleet[2])); at != "1 -1 0" {
		t.Fatalf("the clocks are off by %s hours", at)
	}
	r.later("first")
	sending := r.load()
	in := r.read()
	in.goesOn()
	for i, seconds := range []int{-3600, 3600} {
		set(i, seconds)
		if err := fleet[i].cmd.Process.Signal(syscall.SIGUSR1); err != nil {
			t.Fatal(err)
		}
	}
	r.later("then")
	in.goesOn()
	in.goesOn()
	sent := sending.stop()
	r.settled(sent+4, 2)
	workers := r.count(`SELECT count(DISTINCT worker) FROM outbox_attempts`)
	if workers < 3 {
		t.Errorf("only %d workers took part", workers)
	}
	if n := r.count(`SELECT count(*) FROM outbox_attempts WHERE outcome = 'lapsed'`); n != 0 {
		t.Errorf("%d leases lapsed, though nobody died: %s", n, r.states())
	}
	if n := r.count(`SELECT count(*) FROM outbox WHERE abs(extract(epoch FROM received_at - clock_timestamp())) > 1800 OR settled_at > clock_timestamp()`); n != 0 {
		t.Errorf("%d requests have times of a wrong clock", n)
	}
	for _, w := range fleet {
		stopped(t, w)
	}
	fmt.Printf("%s: %d requests, %d uncertain attempts, none twice\n", t.Name(), sent+6, r.count(`SELECT count(*) FROM outbox_attempts WHERE kind = 'attempt' AND outcome = 'uncertain'`))
}

// TestClockOfPostgres: the clock of Postgres is an hour behind that of NATS, Flex and the worker. Under load it is set
// back by another hour: every wait has its usual length, and everything settles. Then it is set right, two hours ahead.
// Nothing is created twice.
func TestClockOfPostgres(t *testing.T) {
	libraries, err := filepath.Glob("/usr/lib/*/faketime/libfaketime.so.1")
	if err != nil || len(libraries) == 0 {
		t.Fatal("libfaketime is missing: make faults installs it on Debian")
	}
	control := filepath.Join(t.TempDir(), "clock")
	set := func(offset string) { t.Helper(); rotate(t, control, offset+"\n"); must(t, os.Chmod(control, 0o644)) } // Postgres reads it, as another user
	for dir := filepath.Dir(control); dir != os.TempDir() && dir != "/"; dir = filepath.Dir(dir) {
		must(t, os.Chmod(dir, 0o755))
	}
	set("-1h")
	server := pgtest.NewServerWith(t, pgtest.Options{Env: []string{"LD_PRELOAD=" + libraries[0], "FAKETIME_TIMESTAMP_FILE=" + control, "FAKETIME_NO_CACHE=1",
		"DONT_FAKE_MONOTONIC=1", "FAKETIME_DONT_FAKE_MONOTONIC=1"}})
	r := rigOn(t, server.DSN("postgres"))
	r.troubled()
	behind := func(hours int) {
		t.Helper()
		expect.Eventually(t, func() error {
			return expect.Is("hours behind", r.count(`SELECT round(extract(epoch FROM $1::timestamptz - clock_timestamp()) / 3600)`, time.Now()), hours)
		})
	}
	behind(1)
	var fleet []*child
	for range 2 {
		w := r.command(r.environment("UNCERTAIN_POLICY=hold"), "run")
		r.says(w.address, "ok", 200)
		fleet = append(fleet, w)
	}
	in := r.read()
	sending := r.load()
	in.goesOn()
	set("-2h")
	behind(2)
	in.goesOn()
	in.goesOn()
	r.flex.Clear()
	r.eventually(func() error {
		return expect.Is("uncertain", r.count(`SELECT count(*) FROM outbox WHERE state = 'uncertain'`), 0)
	})
	back := r.count(`SELECT count(*) FROM outbox_attempts WHERE kind = 'attempt' AND outcome = 'uncertain'`)

	// Set right, the clock goes ahead of what is stored, and the times in Twilio's log are not those of the attempts that
	// were uncertain then: where nothing proves that such a request is absent, it waits for a person.
	r.troubled()
	in.goesOn()
	set("+0")
	behind(0)
	in.goesOn()
	sent := sending.stop()
	expect.EventuallyWithin(t, 2*expect.Patience, func() error {
		return expect.Is("created, or a person's", r.count(`SELECT count(*) FROM outbox WHERE state = 'created' OR state = 'uncertain' AND for_person_since IS NOT NULL`), sent)
	})
	if twice := r.flex.Duplicates(); len(twice) > 0 {
		t.Errorf("created more than once: %v", twice)
	}
	for _, w := range fleet {
		r.says(w.address, "ok", 200)
		stopped(t, w)
	}
	fmt.Printf("%s: %d requests, none twice; %d uncertain attempts while it went back, all found out about; after it went ahead %d requests wait for a person; %d leases lapsed\n", t.Name(), sent, back,
		r.count(`SELECT count(*) FROM outbox WHERE state = 'uncertain'`), r.count(`SELECT count(*) FROM outbox_attempts WHERE outcome = 'lapsed'`))
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
