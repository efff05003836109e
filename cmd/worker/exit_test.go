package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/nats-io/nats.go"

	"flexworker/internal/outbox/operator"
	"flexworker/internal/testing/faultproxy"
)

// TestExitStatus: a script can tell a no from a mistyped command, and both from a server
// that is away.
func TestExitStatus(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	env := r.environment()
	port, err := faultproxy.FreePort() // nobody listens there
	if err != nil {
		t.Fatal(err)
	}
	nobody := strings.Replace("postgres://worker@127.0.0.1:PORT/worker", "PORT", strconv.Itoa(port), 1)
	unmade := strings.Replace(r.dsn, r.pool.Config().ConnConfig.Database, "no_such_database", 1)
	file := t.TempDir() + "/events"
	if err := os.WriteFile(file, []byte("{bad"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		env    []string
		args   string
		status int
	}{
		{env, "list", 0},
		{env, "audit", 0},
		{env, "show nobody", exitNo},
		{env, "retry nobody --why x", exitNo},
		{env, "cancel --where --why x", exitNo},
		{env, "list --no-such-flag", exitUsage},
		{env, "list --limit many", exitUsage},
		{env, "list extra", exitUsage},
		{env, "rate -1 --why x", exitUsage},
		{env, "show", exitUsage},
		{env, "hold", exitUsage},
		{append(env, "DATABASE_URL="), "list", exitUsage},
		{append(env, "DATABASE_URL=://"), "list", exitUsage},
		{append(env, "NATS_URL="), "audit", exitUsage},
		{append(env, "REQUESTS_STREAM=NOPE"), "audit", exitUsage},
		{env, "completion", exitUsage},
		{env, "completion tcsh", exitUsage},
		{env, "completion fish", 0},
		{env, "schema", exitUsage},
		{env, "schema outcome", exitUsage},
		{env, "schema result --json", exitUsage},
		{env, "send /no/such/file", exitUsage},
		{env, "send /dev/null", exitUsage},
		{env, "send " + file, exitUsage},
		{append(env, "DATABASE_URL=postgres:///worker?host=/no/such/folder"), "list", exitAway},
		{append(env, "DATABASE_URL="+strings.Replace(r.dsn, "://", "://nobody:wrong@", 1)), "list", exitUsage},
		{append(env, "DATABASE_URL="+nobody), "list", exitAway},
		{append(env, "DATABASE_URL="+nobody), "migrate status", exitAway},
		{append(env, "DATABASE_URL="+nobody), "hold --why x", exitAway},
		{append(env, "DATABASE_URL="+unmade), "list", exitAway},
		{append(env, "NATS_URL=nats://127.0.0.1:"+strconv.Itoa(port)), "audit", exitAway},
	} {
		if status, out, errs := r.process(c.env, strings.Fields(c.args)...); status != c.status {
			t.Errorf("worker %s: status %d, want %d:\n%s%s", c.args, status, c.status, out, errs)
		}
	}
}

// TestExitStatusOfServers: what a server refuses or breaks off is never the answer no, and
// a right that is missing is a fault of the settings.
func TestExitStatusOfServers(t *testing.T) {
	t.Parallel()
	for code, want := range map[string]int{
		"28P01": exitUsage, "28000": exitUsage, "42501": exitUsage,
		"57014": exitAway, "53300": exitAway, "55P03": exitAway, "25006": exitAway, "57P01": exitAway, "08006": exitAway, "42P01": exitAway,
	} {
		if status := exitStatus(ranError{fmt.Errorf("audit: %w", &pgconn.PgError{Code: code})}); status != want {
			t.Errorf("SQLSTATE %s: status %d, want %d", code, status, want)
		}
	}
	for err, want := range map[error]int{
		nats.ErrAuthorization: exitUsage, nats.ErrPermissionViolation: exitUsage, nats.ErrTimeout: exitAway, context.Canceled: exitAway,
		context.DeadlineExceeded: exitAway, operator.ErrRefused: exitNo, no("no"): exitNo, usage(no("no")): exitUsage,
	} {
		if status := exitStatus(ranError{err}); status != want {
			t.Errorf("%v: status %d, want %d", err, status, want)
		}
	}
}

// TestVerbsWantTheirOwnSettings: a verb complains of no setting that it has no use for.
func TestVerbsWantTheirOwnSettings(t *testing.T) {
	t.Parallel()
	err := faultsOf(errors.Join(errors.New("NATS_URL is empty"), errors.New("TWILIO_ACCOUNT_SID is required")), true, "NATS_")
	if err == nil || err.Error() != "NATS_URL is empty" {
		t.Error(err)
	}
	if err := faultsOf(errors.Join(errors.New("NATS_URL is empty")), false, "NATS_"); err != nil {
		t.Error(err)
	}
}

// TestWithBelow: what belongs to a row stands below it, and breaks no column.
func TestWithBelow(t *testing.T) {
	t.Parallel()
	var out strings.Builder
	if err := withBelow(&out, "HEADING\none\ntwo\nthree\n", []string{"", "second", ""}); err != nil || out.String() != "HEADING\none\ntwo\n    second\nthree\n" {
		t.Errorf("%v\n%s", err, out.String())
	}
}

// TestWordsForMistakes: what is mistyped is answered in our words, the same ones each time.
func TestWordsForMistakes(t *testing.T) {
	t.Parallel()
	for args, want := range map[string]string{
		"list extra":                    `worker list takes no arguments, and "extra" is one`,
		"rate -1 --why x":               `"-1" is not a number of attempts a second`,
		"send --wait 5 -":               "a number needs its unit",
		"completion":                    "say for which shell",
		"completion tcsh":               "unknown command",
		"schema":                        "say which: schema request, schema result or schema asyncapi",
		"rate --nonsense ":              "unknown flag",
		"show":                          "worker show takes one ID, and 0 were given",
		"explain a b":                   "worker explain takes one ID, and 2 were given",
		"resolve":                       "worker resolve takes one ID, and 0 were given",
		"send":                          "worker send takes one FILE, and 0 were given",
		"rate 1 2 --why x":              "say either a number of attempts a second, or --auto",
		"list --limit x":                `--limit "x": not a whole number`,
		"retry x --attempt 1.5 --why x": `--attempt "1.5": not a whole number`,
		"rate 1 --auto=x --why x":       `--auto "x": either true or false`,
		"show \xff":                     `"\xff" is not UTF-8 text`,
		"explain \xff":                  `"\xff" is not UTF-8 text`,
		"cancel a b\xff --why x":        `"b\xff" is not UTF-8 text`,
		"list --source \xff":            `--source "\xff" is not UTF-8 text`,
		"hold --why \xff":               `--why "\xff" is not UTF-8 text`,
		"help explian":                  `did you mean "worker explain"?`,
		"help migrate sideways":         `unknown command "sideways" for "worker migrate"`,
	} {
		cmd := root(io.Discard, io.Discard)
		cmd.SetArgs(strings.Fields(args))
		if err := cmd.ExecuteContext(t.Context()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("worker %s: %v, want %q", args, err, want)
		}
	}
}

// TestCompletion: the shell is offered states, and the ids that begin as typed.
func TestCompletion(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	for _, id := range []string{"crm-1", "crm-2", "shop-1"} {
		if _, err := r.pool.Exec(t.Context(), `INSERT INTO outbox (request_id, source, state, request, due_at, stream_sequence, stream_time) VALUES ($1, 's', 'pending', '{}', now(), 1, now())`, id); err != nil {
			t.Fatal(err)
		}
	}
	env := r.environment()
	for _, c := range []struct{ args, want, not string }{
		{"__complete list --state ab", "abandoned", "REQUEST"},
		{"__complete explain crm", "crm-1\ncrm-2\n", "shop-1"},
		{"__complete cancel crm-1 s", "shop-1\n", "crm-2"},
		{"__complete explain crm-1 s", "", "shop-1"},
		{"completion bash", "__start_worker", "worker:"},
	} {
		status, out, _ := r.process(env, strings.Fields(c.args)...)
		if status != 0 || !strings.Contains(out, c.want) || strings.Contains(out, c.not) {
			t.Errorf("worker %s: status %d\n%s", c.args, status, out)
		}
	}
}
