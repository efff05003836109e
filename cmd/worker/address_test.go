package main

import (
	"fmt"
	"net/url"
	"os"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"flexworker/internal/testing/expect"
)

// odd are passwords that parsers of addresses take apart, each in its own place.
var odd = []string{
	"Zq7x/Kv9w", "2024/Zq7xKv", "Zq7x@Kv9w", "Zq7x@Kv9w/Jm3t", "2024@Kv9w,Jm3t", "Zq7x,Kv9w", "2024,Zq7xKv", "20@2024,Kv9w",
	"Zq7x#Kv9w", "2024#Zq7xKv", "Zq7x?Kv9w", "2024?Zq7x=Kv9w", "Zq7x?Kv9w=Jm3t@Ht5r", "Zq7x%Kv9w", "Zq7x%zzKv9w", "Zq7x%40Kv9w",
	"Zq7x Kv9w", "2024 Zq7x=Kv9w", "Zq7x&Kv9w", "Zq7x:Kv9w", "2024:5432", "Zq7x'Kv9w", `Zq7x"Kv9w`, `Zq7x\Kv9w`, "Zq7x[Kv9w]", "Zq7x\tKv9w",
	"Zq7xKv9w=", "Zq7x;Kv9w", "//Zq7xKv9w", "Zq7x://Kv9w@Jm3t", "Zq7xKv9wé",
}

// shows is the first piece of four bytes of the password that the text has, or "".
func shows(text, password string) string {
	for i := range len(password) - 3 {
		if piece := password[i : i+4]; strings.Contains(text, piece) {
			return piece
		}
	}
	return ""
}

// numbers are the time and the name of a worker in its log: digits that may be those of a password by chance, as 08:24:50 has
// four characters of 2024:5432.
var numbers = regexp.MustCompile(`(?m)^time=\S+|worker=\S+`)

// tries runs a worker until it says that it is not ready, or that it cannot be, and returns its status and log.
func (r *rig) tries(env []string) (status int, log string) {
	r.t.Helper()
	c := r.command(env, "run")
	expect.Eventually(r.t, func() error {
		select {
		case <-c.done:
			return nil
		default:
		}
		if !strings.Contains(c.log.String(), "not ready yet") {
			return fmt.Errorf("it says %s", c.log.String())
		}
		return nil
	})
	_ = c.cmd.Process.Signal(syscall.SIGTERM) // it may have ended
	return c.exit(), c.log.String()
}

// TestTriedAddresses: where Postgres is away, each address that was tried has a line of its own; doctor has all on its one.
func TestTriedAddresses(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	env := r.environment("DATABASE_URL=postgres://nobody@127.0.0.1:1,127.0.0.1:2/x")
	for verb, want := range map[string]string{
		"status": ":\n  127.0.0.1:1 (127.0.0.1): dial error", "doctor": ": 127.0.0.1:1 (127.0.0.1): dial error",
	} {
		if _, out, errs := r.try(env, verb); !strings.Contains(out+errs, want) || strings.Contains(out+errs, `\t`) {
			t.Errorf("worker %s lacks %q:\n%s%s", verb, want, out, errs)
		}
	}
}

// TestNoPartOfAPassword: whatever stands in an address, no verb shows four characters of it, with all servers away.
func TestNoPartOfAPassword(t *testing.T) {
	t.Parallel()
	plain := plainWorker(t)
	file := t.TempDir() + "/events"
	if err := os.WriteFile(file, requestOf("never-sent"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, password := range odd {
		encoded := url.UserPassword("svc", password).String()
		quoted := "'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(password) + "'"
		for form, env := range map[string][]string{
			"as it is": {"DATABASE_URL=postgres://svc:" + password + "@127.0.0.1:1/base", "NATS_URL=nats://svc:" + password + "@127.0.0.1:1"},
			"list":     {"DATABASE_URL=postgres://svc:" + password + "@127.0.0.1:1,127.0.0.1:2/base", "NATS_URL=svc:" + password + "@127.0.0.1:1,svc:" + password + "@127.0.0.1:2"},
			"token":    {"DATABASE_URL=host=127.0.0.1 port=1 user=svc password=" + password + " dbname=base", "NATS_URL=nats://" + password + "@127.0.0.1:1"},
			"encoded":  {"DATABASE_URL=postgres://" + encoded + "@127.0.0.1:1/base", "NATS_URL=nats://" + strings.ReplaceAll(encoded, ",", "%2C") + "@127.0.0.1:1"},
			"quoted":   {"DATABASE_URL=host=127.0.0.1 port=1 user=svc password=" + quoted + " dbname=base", "NATS_URL=nats://127.0.0.1:1"},
			"twilio":   {"DATABASE_URL=postgres://127.0.0.1:1/base", "NATS_URL=nats://127.0.0.1:1", "FLEX_URL=https://svc:" + password + "@127.0.0.1:1", "TASKROUTER_URL=https://svc:" + password + "@127.0.0.1:1"},
			"proxy":    {"DATABASE_URL=postgres://127.0.0.1:1/base", "NATS_URL=nats://127.0.0.1:1", "HTTPS_PROXY=http://svc:" + password + "@127.0.0.1:1"},
			"traces":   {"DATABASE_URL=postgres://127.0.0.1:1/base", "NATS_URL=nats://127.0.0.1:1", "OTEL_EXPORTER_OTLP_ENDPOINT=http://svc:" + password + "@127.0.0.1:1", "OTEL_EXPORTER_OTLP_HEADERS=authorization=" + password + "," + password},
		} {
			env = append(env, "FLEXWORKER_TEST_CHILD=1", "TWILIO_ACCOUNT_SID=AC1", "TWILIO_AUTH_TOKEN=t", "ADMIN_ADDR=", "LOG_LEVEL=debug", "LOG_FORMAT=text")
			works := form == "encoded" || form == "quoted"
			t.Run(fmt.Sprintf("%s %q", form, password), func(t *testing.T) {
				t.Parallel()
				r := &rig{t: t, program: plain}
				verbs := []string{"config", "list", "migrate status", "migrate up", "send " + file}
				switch form {
				case "twilio", "proxy", "traces":
					verbs = verbs[:1]
				case "list", "token":
					verbs = append(verbs[:2], verbs[4])
				}
				for _, verb := range verbs {
					status, out, errs := r.try(env, strings.Fields(verb)...)
					if piece := shows(numbers.ReplaceAllString(out+errs, ""), password); piece != "" {
						t.Errorf("worker %s shows %q:\n%s%s", verb, piece, out, errs)
					}
					if verb == "config" && works && status != 0 || strings.HasPrefix(verb, "send") && status == 0 {
						t.Errorf("worker %s: status %d\n%s%s", verb, status, out, errs)
					}
				}
				status, log := r.tries(env)
				if works && status != 0 {
					t.Errorf("run: status %d", status)
				}
				if piece := shows(numbers.ReplaceAllString(log, ""), password); piece != "" {
					t.Errorf("worker run shows %q:\n%s", piece, log)
				}
			})
		}
	}
}

// TestShownAddress: what is shown of addresses in order.
func TestShownAddress(t *testing.T) {
	t.Parallel()
	for list, want := range map[string]string{
		"nats://nats:4222": "nats://nats:4222", "nats:4222": "nats://nats:4222", " nats://a:1 , b:2,": "nats://a:1,nats://b:2",
		"nats://u:p@a:1": "nats://(hidden)@a:1", "tls://token@[::1]:4222": "tls://(hidden)@[::1]:4222",
		"nats://u:p@a:1,nats://u:q@b:1": "nats://(hidden)@a:1,nats://(hidden)@b:1", "nats://u:p@q@a:1": "(hidden)",
		"nats://u:1/q@a:1": "(hidden)", "nats://u:12,q@a": "(hidden)", "nats://u:p@12,q@a": "(hidden)", "": "(hidden)", "nats://": "(hidden)",
		"u:p@a:1": "nats://(hidden)@a:1", "wss://a:443/path": "wss://a:443/(hidden)", "nats://a:1?token=t": "nats://a:1",
	} {
		if got := natsURL(list).String(); got != want {
			t.Errorf("NATS_URL=%s is shown as %s, want %s", list, got, want)
		}
	}
	for _, good := range []string{
		"postgres://svc:a%40b@h/d", "postgres://h/d?user=a@b&password=c@d", "postgres://u@h1:1,h2:2/d", "postgres://u@%2Fvar%2Frun/d",
		"host=h password='a@b'", "postgres:///d?host=/var/run", "postgres://u:p?q#r@h/d",
	} {
		if problem := databaseProblem(good); problem != "" {
			t.Errorf("%s %s", good, problem)
		}
	}
}
