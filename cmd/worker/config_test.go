package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"flexworker/internal/flex"
	"flexworker/internal/testing/expect"
)

// defaults are the interface, the contract's section 7: name by name what is in
// force when nothing is set.
var defaults = [][2]string{
	{"DATABASE_URL", ""}, {"MIGRATE", "true"},
	{"NATS_URL", "nats://127.0.0.1:4222"}, {"NATS_CREDS_FILE", ""}, {"NATS_CA_FILE", ""}, {"NATS_CERT_FILE", ""}, {"NATS_KEY_FILE", ""},
	{"REQUESTS_STREAM", "INTERACTION_REQUESTS"}, {"REQUESTS_SUBJECT", "interactions.requests"}, {"REQUESTS_CONSUMER", "interaction-worker"},
	{"RESULTS_STREAM", "INTERACTION_RESULTS"}, {"RESULTS_SUBJECT", "interactions.results"}, {"CREATE_STREAMS", "false"},
	{"TWILIO_ACCOUNT_SID", ""}, {"TWILIO_AUTH_TOKEN", ""}, {"TWILIO_API_KEY", ""}, {"TWILIO_API_SECRET", ""},
	{"FLEX_URL", "https://flex-api.twilio.com"}, {"TASKROUTER_URL", "https://taskrouter.twilio.com"},
	{"FLEX_INSECURE_HTTP", "false"},
	{"FLEX_TIMEOUT", "15s"}, {"FLEX_CONCURRENCY", "16"}, {"FLEX_RATE", "10"},
	{"RETRY_MAX_ATTEMPTS", "10"}, {"RETRY_MIN_DELAY", "1s"}, {"RETRY_MAX_DELAY", "5m"},
	{"LOOKUP_ATTRIBUTE", "interaction_request"}, {"LOOKUP_SETTLE", "60s"}, {"UNCERTAIN_POLICY", "hold"},
	{"CONFIRM", "false"}, {"CONFIRM_RATE", "5"},
	{"RETENTION", "720h"}, {"SHUTDOWN_GRACE", "30s"}, {"ADMIN_ADDR", ":8080"}, {"ADMIN_TOKEN", ""},
	{"ADMIN_READ_TOKEN", ""}, {"TRUSTED_PROXIES", ""}, {"SERVICE_SUBJECT", "interactions"},
	{"LOG_LEVEL", "info"}, {"LOG_FORMAT", "json"},
}

// setEnv makes these the only settings. Tests that use it are not parallel.
func setEnv(t *testing.T, env map[string]string) {
	t.Helper()
	names := []string{"HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"} // read by Go
	for _, d := range defaults {
		names = append(names, d[0], d[0]+"_FILE")
	}
	for _, name := range names {
		t.Setenv(name, "") // so that it is put back
		if err := os.Unsetenv(name); err != nil {
			t.Fatal(err)
		}
	}
	for name, value := range env {
		t.Setenv(name, value)
	}
}

// required are the settings without which nothing starts.
func required(more ...string) map[string]string {
	env := map[string]string{"DATABASE_URL": "postgres://worker@db/worker", "TWILIO_ACCOUNT_SID": "AC1", "TWILIO_AUTH_TOKEN": "t"}
	for i := 0; i < len(more); i += 2 {
		env[more[i]] = more[i+1]
	}
	return env
}

func TestDefaults(t *testing.T) {
	fields := reflect.TypeFor[Config]()
	var names []string
	for i := range fields.NumField() {
		f := fields.Field(i)
		names = append(names, f.Tag.Get("envconfig"))
		if i < len(defaults) && f.Tag.Get("default") != defaults[i][1] {
			t.Errorf("%s defaults to %q, the contract says %q", defaults[i][0], f.Tag.Get("default"), defaults[i][1])
		}
		if f.Tag.Get("doc") == "" {
			t.Errorf("%s has no line of explanation", f.Name)
		}
	}
	var want []string
	for _, d := range defaults {
		want = append(want, d[0])
	}
	if fmt.Sprint(names) != fmt.Sprint(want) {
		t.Fatalf("settings are\n%v\nthe contract has\n%v", names, want)
	}
	setEnv(t, required())
	cfg, err := loadConfig()
	if err != nil {
		t.Fatal(err)
	}
	if cfg.FlexTimeout != 15*time.Second || cfg.FlexRate != 10 || !cfg.Migrate || cfg.CreateStreams || cfg.Retention != 720*time.Hour || cfg.LookupSettle != time.Minute {
		t.Errorf("%+v", cfg)
	}
}

// TestFaults: each setting's own fault, with nothing else beside it.
func TestFaults(t *testing.T) {
	const token = "TWILIO_ACCOUNT_SID and TWILIO_AUTH_TOKEN, or TWILIO_API_KEY and TWILIO_API_SECRET, are required"
	setEnv(t, nil)
	if _, err := loadConfig(); err == nil || err.Error() != "DATABASE_URL is required, such as postgres://worker@db/worker (or DATABASE_URL_FILE)\n"+token {
		t.Errorf("nothing set: %v", err)
	}
	for _, c := range [][3]string{
		{"DATABASE_URL", "mysql:/x", "DATABASE_URL is not a Postgres address such as postgres://worker@db/worker"},
		{"DATABASE_URL", "postgres://worker@db/worker?pool_max_conns=many", "DATABASE_URL is not a Postgres address such as postgres://worker@db/worker"},
		{"MIGRATE", "yes", "MIGRATE is not true or false (its value is not shown)"},
		{"NATS_CERT_FILE", "config_test.go", "NATS_CERT_FILE and NATS_KEY_FILE go together"},
		{"NATS_CA_FILE", "/x", "NATS_CA_FILE is not the path of a file that can be read: no such file or directory (its value is not shown: it may be what belongs in the file)"},
		{"RESULTS_SUBJECT", "interactions.requests", "REQUESTS_SUBJECT=interactions.requests and RESULTS_SUBJECT=interactions.requests must not lie within each other: results would come back as requests, without end"},
		{"RESULTS_SUBJECT", "interactions.requests.results", "REQUESTS_SUBJECT=interactions.requests and RESULTS_SUBJECT=interactions.requests.results must not lie within each other: results would come back as requests, without end"},
		{"REQUESTS_SUBJECT", "interactions.results.again", "REQUESTS_SUBJECT=interactions.results.again and RESULTS_SUBJECT=interactions.results must not lie within each other: results would come back as requests, without end"},
		{"SERVICE_SUBJECT", "interactions.requests", "SERVICE_SUBJECT=interactions.requests and REQUESTS_SUBJECT=interactions.requests must not lead to the same subjects: the stream would take the questions of senders"},
		{"RESULTS_SUBJECT", "interactions.status.x", "SERVICE_SUBJECT=interactions and RESULTS_SUBJECT=interactions.status.x must not lead to the same subjects: the stream would take the questions of senders"},
		{"SERVICE_SUBJECT", "a.*", "SERVICE_SUBJECT is not a subject of plain tokens (its value is not shown)"},
		{"REQUESTS_STREAM", "A.B", "REQUESTS_STREAM may have letters, digits, _ and - only (its value is not shown)"},
		{"REQUESTS_SUBJECT", "a.>", "REQUESTS_SUBJECT is not a subject of plain tokens (its value is not shown)"},
		{"RESULTS_SUBJECT", "a..b", "RESULTS_SUBJECT is not a subject of plain tokens (its value is not shown)"},
		{"REQUESTS_CONSUMER", "a b", "REQUESTS_CONSUMER may have letters, digits, _ and - only (its value is not shown)"},
		{"TWILIO_ACCOUNT_SID", "SK1", "TWILIO_ACCOUNT_SID must begin with AC (its value is not shown: it may be the token)"},
		{"TWILIO_API_KEY", "SK1", "give either TWILIO_ACCOUNT_SID and TWILIO_AUTH_TOKEN or TWILIO_API_KEY and TWILIO_API_SECRET, not both"},
		{"FLEX_URL", "http://flex.example", "FLEX_URL must be https; plain http is for a loopback address only, or for test networks with FLEX_INSECURE_HTTP=true"},
		{"HTTPS_PROXY", "http://me:a%secret@proxy:1", "HTTPS_PROXY is not the address of a proxy such as http://proxy.example.com:3128 (its value is not shown)"},
		{"http_proxy", `"proxy:3128"`, "http_proxy is not the address of a proxy such as http://proxy.example.com:3128 (its value is not shown)"},
		{"FLEX_INSECURE_HTTP", "yes", "FLEX_INSECURE_HTTP is not true or false (its value is not shown)"},
		{"FLEX_URL", "flex", "FLEX_URL is not an address such as https://flex-api.twilio.com"},
		{"TASKROUTER_URL", "https://u:p@x", "TASKROUTER_URL must have no user, query or fragment"},
		{"FLEX_TIMEOUT", "30", "FLEX_TIMEOUT is not a duration such as 30s, 5m or 720h (its value is not shown)"},
		{"FLEX_TIMEOUT", "-5s", "FLEX_TIMEOUT=-5s must be between 1s and 5m"},
		{"FLEX_CONCURRENCY", "1.5", "FLEX_CONCURRENCY is not a whole number (its value is not shown)"},
		{"FLEX_CONCURRENCY", "0", "FLEX_CONCURRENCY=0 must be between 1 and 1000"},
		{"FLEX_RATE", "NaN", "FLEX_RATE=NaN must be between 0 and 1000000"},
		{"FLEX_RATE", "five", "FLEX_RATE is not a number (its value is not shown)"},
		{"FLEX_RATE", "-1", "FLEX_RATE=-1 must be between 0 and 1000000"},
		{"RETRY_MAX_ATTEMPTS", "0", "RETRY_MAX_ATTEMPTS=0 must be at least 1"},
		{"RETRY_MIN_DELAY", "0s", "RETRY_MIN_DELAY=0s must be at least 1ms"},
		{"RETRY_MAX_DELAY", "1ms", "RETRY_MAX_DELAY=1ms must be between RETRY_MIN_DELAY and 24h"},
		{"LOOKUP_ATTRIBUTE", "a-b", "LOOKUP_ATTRIBUTE may have letters, digits and _ only, 64 at most, and begin with a letter: TaskRouter's expressions know no others (its value is not shown)"},
		{"LOOKUP_ATTRIBUTE", strings.Repeat("a", 65), "LOOKUP_ATTRIBUTE may have letters, digits and _ only, 64 at most, and begin with a letter: TaskRouter's expressions know no others (its value is not shown)"},
		{"LOOKUP_ATTRIBUTE", "channelType", "LOOKUP_ATTRIBUTE must be another name: Twilio itself uses this one (its value is not shown)"},
		{"LOOKUP_ATTRIBUTE", "IN", "LOOKUP_ATTRIBUTE must be another name: Twilio itself uses this one (its value is not shown)"},
		{"FLEX_URL", "https://flex-api.twilio.com/v1", "FLEX_URL must have no path at twilio.com: the worker adds /v1/... to it, and Twilio knows no such path behind another"},
		{"FLEX_URL", "https://Flex-API.Twilio.com./v1/Interactions/", "FLEX_URL must have no path at twilio.com: the worker adds /v1/... to it, and Twilio knows no such path behind another"},
		{"TASKROUTER_URL", "https://taskrouter.twilio.com/v1", "TASKROUTER_URL must have no path at twilio.com: the worker adds /v1/... to it, and Twilio knows no such path behind another"},
		{"FLEX_URL", "https://taskrouter.twilio.com", "FLEX_URL leads to another service of Twilio's: this one is at https://flex-api.twilio.com"},
		{"TASKROUTER_URL", "https://flex-api.twilio.com", "TASKROUTER_URL leads to another service of Twilio's: this one is at https://taskrouter.twilio.com"},
		{"FLEX_URL", "https://:443", "FLEX_URL is not an address such as https://flex-api.twilio.com"},
		{"FLEX_URL", "https://flex.example?", "FLEX_URL must have no user, query or fragment"},
		{"FLEX_URL", "https://flex.example#", "FLEX_URL must have no user, query or fragment"},
		{"LOOKUP_SETTLE", "5m", "LOOKUP_SETTLE=5m0s must be between 1s and 4m: TaskRouter forgets a finished task after five minutes"},
		{"UNCERTAIN_POLICY", "guess", "UNCERTAIN_POLICY must be hold, retry or fail (its value is not shown)"},
		{"RETENTION", "1m", "RETENTION=1m0s must be 0 (never) or at least 1h: a repeat is recognised only while its row is there"},
		{"SHUTDOWN_GRACE", "-1s", "SHUTDOWN_GRACE=-1s must not be negative"},
		{"ADMIN_ADDR", "8080", "ADMIN_ADDR=8080 must be host:port or :port"},
		{"ADMIN_ADDR", "me:secret@:8080", "ADMIN_ADDR must be host:port or :port and nothing else (its value is not shown)"},
		{"ADMIN_ADDR", ":80800", "ADMIN_ADDR=:80800 must be host:port or :port"},
		{"ADMIN_TOKEN", "0123456789abcdef012", "ADMIN_TOKEN has fewer than 20 characters and may be guessed: `openssl rand -hex 24` makes a good one"},
		{"ADMIN_READ_TOKEN", "0123456789abcdef0123", "ADMIN_READ_TOKEN is set without ADMIN_TOKEN: page and API are off without that one"},
		{"TRUSTED_PROXIES", "proxy.example", "TRUSTED_PROXIES must be addresses and prefixes such as 10.0.0.7,10.1.0.0/16, and not trust every address (its value is not shown)"},
		{"TRUSTED_PROXIES", "10.0.0.7,0.0.0.0/0", "TRUSTED_PROXIES must be addresses and prefixes such as 10.0.0.7,10.1.0.0/16, and not trust every address (its value is not shown)"},
		{"LOG_LEVEL", "loud", "LOG_LEVEL must be debug, info, warn or error (its value is not shown)"},
		{"LOG_FORMAT", "xml", "LOG_FORMAT must be json or text (its value is not shown)"},
	} {
		setEnv(t, required(c[0], c[1]))
		if _, err := loadConfig(); err == nil || err.Error() != c[2] {
			t.Errorf("%s=%s:\n got %v\nwant %s", c[0], c[1], err, c[2])
		}
	}
	for _, c := range [][2]string{{"LOOKUP_ATTRIBUTE", ""}, {"ADMIN_ADDR", ""}, {"FLEX_RATE", "0"}, {"RETENTION", "0s"}, {"SHUTDOWN_GRACE", "0s"},
		{"FLEX_URL", "http://[::1]:9"}, {"FLEX_URL", "https://flex-api.twilio.com/"}, {"FLEX_URL", "https://flex-api.dublin.ie1.twilio.com"},
		{"FLEX_URL", "https://gateway.example/twilio"}, {"FLEX_URL", "https://nottwilio.com/v1"}, {"ADMIN_ADDR", "[fe80::1%eth0]:8080"}, {"ADMIN_ADDR", "worker-1.example:http"}, {"TRUSTED_PROXIES", "10.0.0.7, 10.1.0.0/16,fd00::/8"}, {"FLEX_URL", "http://localhost:9"}, {"RESULTS_SUBJECT", "interactions.requestsresults"}, {"DATABASE_URL", "host=db user=worker"}} {
		setEnv(t, required(c[0], c[1]))
		if _, err := loadConfig(); err != nil {
			t.Errorf("%s=%s: %v", c[0], c[1], err)
		}
	}
}

// TestAdminTokens: who may look must not be able to act, and a token that may be guessed is refused.
func TestAdminTokens(t *testing.T) {
	const good = "0123456789abcdef0123"
	setEnv(t, required("ADMIN_TOKEN", good, "ADMIN_READ_TOKEN", good))
	if _, err := loadConfig(); err == nil || err.Error() != "ADMIN_READ_TOKEN must not be ADMIN_TOKEN: who may look could act" {
		t.Error(err)
	}
	for _, c := range []struct {
		act, look string
		faults    int
	}{{good, "", 0}, {good, good + "x", 0}, {good, good[1:], 1}, {"a", "b", 2}} {
		setEnv(t, required("ADMIN_TOKEN", c.act, "ADMIN_READ_TOKEN", c.look))
		if c.look == "" {
			setEnv(t, required("ADMIN_TOKEN", c.act))
		}
		_, err := loadConfig()
		if said := fmt.Sprint(err); strings.Count(said, "may be guessed") != c.faults || (err == nil) != (c.faults == 0) || strings.Contains(said, good[1:]) {
			t.Errorf("%+v: %v", c, err)
		}
	}
}

// TestInsecureHTTP: plain http goes anywhere when somebody says so, and the start says it loudly.
func TestInsecureHTTP(t *testing.T) {
	setEnv(t, required("FLEX_URL", "http://endpoint:9090", "TASKROUTER_URL", "http://10.0.0.1:9090", "FLEX_INSECURE_HTTP", "true"))
	cfg, err := loadConfig()
	if err != nil {
		t.Fatal(err)
	}
	if said := cfg.warnings(); len(said) != 1 || !strings.Contains(said[0], "FLEX_INSECURE_HTTP") || !strings.Contains(said[0], "credentials") {
		t.Errorf("%q", said)
	}
	t.Setenv("ALL_PROXY", "http://me:a-secret@proxy:1")
	t.Setenv("FLEX_INSECURE_HTTP", "false")
	if _, err := loadConfig(); err == nil || strings.Count(err.Error(), "must be https") != 2 {
		t.Errorf("refused by default: %v", err)
	}
	if said := (Config{}).warnings(); len(said) != 1 || !strings.Contains(said[0], "ALL_PROXY") || strings.Contains(said[0], "secret") {
		t.Errorf("%q", said)
	}
	// The log of a start has them before anything is reached, also when nothing ever is.
	var log expect.Log
	cfg.DatabaseURL, cfg.AdminAddr = secretOf("postgres://worker@127.0.0.1:1/worker?connect_timeout=1"), ""
	cfg.NATSURL, cfg.LogLevel = "nats://127.0.0.1:1", "warn"
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_ = run(ctx, cfg, slog.New(slog.NewTextHandler(&log, nil)), nil) // it was told to stop before it began
	if text := log.String(); !strings.Contains(text, "level=WARN msg=\"a setting is risky\"") || !strings.Contains(text, "why=\"FLEX_INSECURE_HTTP:") {
		t.Errorf("the log says %s", text)
	}
}

// TestFaultsTogether: what cannot be read and what is out of range, at once,
// each setting once.
func TestFaultsTogether(t *testing.T) {
	setEnv(t, map[string]string{"FLEX_TIMEOUT": "30", "FLEX_RATE": "-1", "LOG_LEVEL": "loud", "TWILIO_AUTH_TOKEN": "", "TWILIO_ACCOUNT_SID": "AC1", "NATS_KEY_FILE": "config_test.go"})
	_, err := loadConfig()
	want := []string{
		"TWILIO_AUTH_TOKEN is set but empty",
		"FLEX_TIMEOUT is not a duration such as 30s, 5m or 720h (its value is not shown)",
		"DATABASE_URL is required, such as postgres://worker@db/worker (or DATABASE_URL_FILE)",
		"NATS_CERT_FILE and NATS_KEY_FILE go together",
		"FLEX_RATE=-1 must be between 0 and 1000000",
		"LOG_LEVEL must be debug, info, warn or error (its value is not shown)",
	}
	if err == nil || err.Error() != strings.Join(want, "\n") {
		t.Errorf("got\n%v\nwant\n%s", err, strings.Join(want, "\n"))
	}
}

// TestSetButEmpty: an empty value would beat the default in silence.
func TestSetButEmpty(t *testing.T) {
	for _, d := range defaults {
		if mayBeEmpty[d[0]] {
			continue
		}
		setEnv(t, required(d[0], ""))
		if _, err := loadConfig(); err == nil || !strings.HasPrefix(err.Error(), d[0]+" is set but empty") {
			t.Errorf("%s: %v", d[0], err)
		}
	}
}

func TestSecretFiles(t *testing.T) {
	dir := t.TempDir()
	file := func(name, value string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(value), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	token := file("token", "first\n")
	env := map[string]string{"DATABASE_URL_FILE": file("dsn", "postgres://w:hush@db/w"), "TWILIO_ACCOUNT_SID": "AC1", "TWILIO_AUTH_TOKEN_FILE": token, "ADMIN_TOKEN_FILE": file("admin", "a-token-that-acts-000000")}
	setEnv(t, env)
	cfg, err := loadConfig()
	if err != nil {
		t.Fatal(err)
	}
	if user, password := cfg.credentials(); user != "AC1" || password != "first" || cfg.DatabaseURL.Value() != "postgres://w:hush@db/w" {
		t.Errorf("%s %s %s", user, password, cfg.DatabaseURL.Value())
	}
	rotate := func(value, want string) {
		t.Helper()
		file("token", value)
		cfg.TwilioAuthToken.mu.Lock()
		cfg.TwilioAuthToken.readAt = time.Time{} // as if the last look were long ago
		cfg.TwilioAuthToken.mu.Unlock()
		if _, password := cfg.credentials(); password != want {
			t.Errorf("after rotation to %q it is %q", value, password)
		}
	}
	rotate("second", "second")
	rotate("", "second") // in the middle of a rotation
	if err := os.Remove(token); err != nil {
		t.Fatal(err)
	}
	cfg.TwilioAuthToken.readAt = time.Time{}
	if _, password := cfg.credentials(); password != "second" {
		t.Errorf("without the file it is %q", password)
	}
	rotate("third", "third")

	for want, change := range map[string][2]string{
		"give either TWILIO_AUTH_TOKEN or TWILIO_AUTH_TOKEN_FILE, not both":                                                                                         {"TWILIO_AUTH_TOKEN", "x"},
		"TWILIO_AUTH_TOKEN_FILE is not the path of a file that can be read: no such file or directory (its value is not shown: it may be what belongs in the file)": {"TWILIO_AUTH_TOKEN_FILE", "/none"},
		"TWILIO_AUTH_TOKEN_FILE=" + dir + "/empty is an empty file":                                                                                                 {"TWILIO_AUTH_TOKEN_FILE", file("empty", " \n")},
		"TWILIO_AUTH_TOKEN is set but empty":                                                                                                                        {"TWILIO_AUTH_TOKEN_FILE", ""},
		"DATABASE_URL is not a Postgres address such as postgres://worker@db/worker":                                                                                {"DATABASE_URL_FILE", file("bad", "postgres://w:hu%sh@db/w")},
		"give either ADMIN_TOKEN or ADMIN_TOKEN_FILE, not both":                                                                                                     {"ADMIN_TOKEN", "x"},
		"DATABASE_URL_FILE is not the path of a file that can be read: no such file or directory (its value is not shown: it may be what belongs in the file)":      {"DATABASE_URL_FILE", dir + "/missing"},
	} {
		setEnv(t, env)
		t.Setenv(change[0], change[1])
		if _, err := loadConfig(); err == nil || err.Error() != want {
			t.Errorf("%v:\n got %v\nwant %s", change, err, want)
		}
	}
}

// TestSecretsAreNeverShown, whatever is printed, encoded or goes wrong.
func TestSecretsAreNeverShown(t *testing.T) {
	const hush = "hush-hush-hush-hush-hush"
	env := required("DATABASE_URL", "postgres://w:"+hush+"@db/w", "TWILIO_AUTH_TOKEN", hush, "ADMIN_TOKEN", hush, "NATS_URL", "nats://u:"+hush+"@n1:4222,nats://u:"+hush+"@n2:4222")
	setEnv(t, env)
	cfg, err := loadConfig()
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		one := cfg
		fmt.Fprintf(&out, verb+"\n", one)
		fmt.Fprintf(&out, verb+verb+"\n", &one, one.TwilioAuthToken)
	}
	fmt.Fprintln(&out, settings(cfg))
	one := cfg
	if err := json.NewEncoder(&out).Encode(one); err != nil {
		t.Fatal(err)
	}
	for _, format := range []string{"json", "text"} {
		newLog(&out, "debug", format).Info("x", "cfg", one, "token", cfg.TwilioAuthToken, "dsn", &cfg.DatabaseURL)
	}
	for _, bad := range []string{"postgres://w:" + hush + "%zz@db/w", "postgres://w:" + hush + "@db:port/w", "host=db password=" + hush + " port=x", hush} {
		env["DATABASE_URL"] = bad
		setEnv(t, env)
		_, err := loadConfig()
		fmt.Fprintln(&out, err)
		for _, args := range [][]string{{"config"}, {"migrate", "status"}, {"migrate", "up"}, {"run"}, {"list"}} {
			cmd := root(&out, &out)
			cmd.SetArgs(args)
			fmt.Fprintln(&out, cmd.ExecuteContext(t.Context()))
		}
	}
	for _, bad := range []string{"nats://u:" + hush + "%zz@n:4222", "u:" + hush + "@127.0.0.1:1", "nats://" + hush + "@127.0.0.1:1"} {
		setEnv(t, required("NATS_URL", bad))
		cfg, err := loadConfig()
		fmt.Fprintln(&out, err, settings(cfg))
		var log expect.Log
		conn, err := connectNATS(cfg, "w", &natsHealth{}, newLog(&log, "debug", "text"))
		fmt.Fprintln(&out, err)
		if conn != nil {
			expect.Eventually(t, func() error { // the library says by itself what it cannot reach
				return expect.Is("told", strings.Contains(log.String(), "NATS cannot be connected to"), true)
			})
			conn.Close()
		}
		fmt.Fprintln(&out, log.String())
		_, _, _, err = senderStream()
		fmt.Fprintln(&out, err)
	}
	for line := range strings.Lines(out.String()) {
		if strings.Contains(line, hush) || strings.Contains(line, fmt.Sprintf("%x", hush)) {
			t.Errorf("shown: %s", line)
		}
	}
	if !strings.Contains(out.String(), "(hidden)") {
		t.Error("nothing was shown at all")
	}
}

// TestSecretInAnySetting: whichever setting a secret stands in by mistake, neither the fault nor `worker config` shows it
// where the setting cannot have such a value. What can be a name, such as that of a stream, is shown.
func TestSecretInAnySetting(t *testing.T) {
	fields := reflect.TypeFor[Config]()
	for i := range fields.NumField() {
		name := fields.Field(i).Tag.Get("envconfig")
		for _, secret := range []string{"8f3e0b7c/5d2a+49164c5b7e0f9a1d3c62==", "-----BEGIN PRIVATE KEY-----\n8f3e0b7c5d2a49164c5b7e0f9a1d3c62\n"} {
			for _, in := range []string{name, name + "_FILE"} {
				setEnv(t, required(in, secret))
				cfg, err := loadConfig()
				if piece := shows(fmt.Sprint(err, settings(cfg)), "8f3e0b7c") + shows(fmt.Sprint(err, settings(cfg)), "49164c5b7e0f9a1d3c62"); piece != "" {
					t.Errorf("%s: shows %q: %v, %v", in, piece, err, settings(cfg))
				}
			}
		}
	}
}

// TestDatabaseShown: where the database is, and never a part of a password.
func TestDatabaseShown(t *testing.T) {
	t.Parallel()
	for dsn, want := range map[string]string{
		"postgres://w:secret@db:5432/worker?sslmode=require": " db:5432/worker",
		"postgresql://db/worker?password=secret":             " db/worker",
		"postgres://w:se@cret@db/worker":                     "",
		"postgres://w:se@cr/et@db/worker":                    "", // read as host cr
		"postgres://w:se@cr?et@db/worker":                    "",
		"postgres://w:se@cr#et@db/worker":                    "",
		"postgres://w:12/secret@db/worker":                   "", // read as host w, port 12
		"postgres://w:se%zzcret@db/worker":                   "",
		"host=db user=w password=secret":                     "",
		"secret":                                             "",
	} {
		if got := shownDatabase(dsn); got != want {
			t.Errorf("%s is shown as %q, want %q", dsn, got, want)
		}
	}
}

// TestUnknownSettings: a mistyped setting is named, by config and at the start; those
// of other programs are not.
func TestUnknownSettings(t *testing.T) {
	setEnv(t, required("FLEX_RATES", "1", "RETRY_MAX_ATTEMPT", "3", "REQUESTS_CA_BUNDLE", "/ca.pem", "NATS_SERVICE_HOST", "10.0.0.1", "LOG_DRIVER", "x", "ADMIN_ADDR", "", "ADMIN_PASSWORD", "x", "TRUSTED_PROXY", "10.0.0.7", "CONFIRMATION", "true", "SERVICE_SUBJECTS", "x", "SERVICE_NAME", "x"))
	got := unknownSettings() // and what else the environment of whoever tests has
	for name, want := range map[string]bool{"FLEX_RATES": true, "RETRY_MAX_ATTEMPT": true, "TRUSTED_PROXY": true, "CONFIRMATION": true, "SERVICE_SUBJECTS": true, "SERVICE_NAME": false, "ADMIN_PASSWORD": false, "TWILIO_AUTH_TOKEN": false,
		"REQUESTS_CA_BUNDLE": false, "NATS_SERVICE_HOST": false, "LOG_DRIVER": false} {
		if slices.Contains(got, name) != want {
			t.Errorf("%s among %v, want %v", name, got, want)
		}
	}
	for _, args := range [][]string{{"config"}, {"run"}} {
		var out, errs bytes.Buffer
		cmd := root(&out, &errs)
		cmd.SetArgs(args)
		ctx, cancel := context.WithCancel(t.Context())
		cancel() // run ends before it has asked anybody
		_ = cmd.ExecuteContext(ctx)
		for _, name := range []string{"FLEX_RATES", "RETRY_MAX_ATTEMPT"} {
			if said := errs.String(); !strings.Contains(said, name) || !strings.Contains(said, "is not a setting of this worker") {
				t.Errorf("worker %s does not name %s:\n%s", args[0], name, errs.String())
			}
		}
	}
}

// TestNothingIsFoundLate: the settings that the client of Flex refuses are faults of the settings,
// for `worker config` and all at once: what only `worker run` found would be found in production.
func TestNothingIsFoundLate(t *testing.T) {
	attributes := []string{"", "a", "_a", "a_1", "1a", "a-b", "a.b", "ä", strings.Repeat("a", 64), strings.Repeat("a", 65)}
	attributes = append(attributes, "channelType", "conversationSid", "conversations", "customerAddress", "customerName", "customers", "direction",
		"flexChannelInviteSid", "flexInteractionChannelSid", "flexInteractionSid", "initiatedBy", "taskCreateSource", "AND", "not", "null", "true")
	for _, attribute := range attributes {
		for _, address := range []string{"https://flex-api.twilio.com", "https://flex-api.twilio.com/v1", "https://:443", "https://h?", "https://h#", "https:h", "http://h", "http://127.0.0.1:9"} {
			setEnv(t, required("LOOKUP_ATTRIBUTE", attribute, "FLEX_URL", address))
			cfg, fault := loadConfig()
			_, late := flex.New(flex.Config{URL: cfg.FlexURL, TaskRouterURL: cfg.TaskRouterURL, Credentials: cfg.credentials, Timeout: cfg.FlexTimeout,
				Concurrency: cfg.FlexConcurrency, LookupAttribute: cfg.LookupAttribute})
			if (fault == nil) != (late == nil) {
				t.Errorf("LOOKUP_ATTRIBUTE=%s FLEX_URL=%s: the settings say %v, the client %v", attribute, address, fault, late)
			}
		}
	}
}
