package main

import (
	"os"
	"slices"
	"strings"
	"testing"
)

// TestSecretInAnotherField: a secret in a field where none belongs, or in a part of an address
// that no library takes for a secret, is shown by no verb, with all servers away.
func TestSecretInAnotherField(t *testing.T) {
	t.Parallel()
	plain := plainWorker(t)
	const secret = "8f3e0b7c5d2a49164c5b7e0f9a1d3c62"
	const sid, key = "AC" + "00000000000000000000000000000001", "SK" + "00000000000000000000000000000008"
	const traced = "OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:1 "
	const seed = "SUAIBDPBAUTWCWBKIO6XHQNINK5FWJW4OHLXC3HQ2KFE4PEJUA44CNHTC4"
	file := t.TempDir() + "/events"
	if err := os.WriteFile(file, requestOf("never-sent"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		env    string
		starts bool // the settings have no fault
		shows  string
	}{
		"key and secret swapped":          {"TWILIO_API_KEY=" + secret + " TWILIO_API_SECRET=" + key, false, "TWILIO_API_KEY (hidden)"},
		"the token as account sid":        {"TWILIO_ACCOUNT_SID=" + secret + " TWILIO_AUTH_TOKEN=t", false, "TWILIO_ACCOUNT_SID (hidden)"},
		"token and account sid swapped":   {"TWILIO_ACCOUNT_SID=" + secret + " TWILIO_AUTH_TOKEN=" + sid, false, "TWILIO_ACCOUNT_SID (hidden)"},
		"sid and token in one":            {"TWILIO_ACCOUNT_SID=" + sid + ":" + secret + " TWILIO_AUTH_TOKEN=t", true, "TWILIO_ACCOUNT_SID (hidden)"},
		"a secret that begins like a key": {"TWILIO_API_KEY=SK" + secret + "x TWILIO_API_SECRET=t", true, "TWILIO_API_KEY (hidden)"},
		"a user in ADMIN_ADDR":            {"ADMIN_ADDR=" + secret + "@127.0.0.1:0", false, "ADMIN_ADDR (hidden)"},
		"user and password in ADMIN_ADDR": {"ADMIN_ADDR=svc:" + secret + "@127.0.0.1:0", false, "ADMIN_ADDR (hidden)"},
		"a URL in ADMIN_ADDR":             {"ADMIN_ADDR=http://127.0.0.1:0/?key=" + secret, false, "ADMIN_ADDR (hidden)"},
		"a port alone is no secret":       {"ADMIN_ADDR=8080", false, "ADMIN_ADDR 8080"},
		"a word as ADMIN_ADDR":            {"ADMIN_ADDR=" + secret, false, "ADMIN_ADDR (hidden)"},
		"a word as port of ADMIN_ADDR":    {"ADMIN_ADDR=svc:" + secret, false, "ADMIN_ADDR (hidden)"},
		"a scheme of FLEX_URL":            {"FLEX_URL=x" + secret + "://x", false, "FLEX_URL (hidden)"},
		"a scheme of TASKROUTER_URL":      {"TASKROUTER_URL=x" + secret + "://x", false, "TASKROUTER_URL (hidden)"},
		"a scheme of NATS_URL":            {"NATS_URL=x" + secret + "://127.0.0.1:1", true, "NATS_URL (hidden)"},
		"a seed as NATS_URL":              {"NATS_URL=" + seed, true, "NATS_URL (hidden)"},
		"a seed behind nats://":           {"NATS_URL=nats://" + seed, true, "NATS_URL (hidden)"},
		"a long token as NATS_URL":        {"NATS_URL=" + secret + secret[:10], true, "NATS_URL (hidden)"},
		"a seed as NATS_CREDS_FILE":       {"NATS_CREDS_FILE=" + seed, false, "NATS_CREDS_FILE (hidden)"},
		"a key as NATS_KEY_FILE":          {"NATS_CERT_FILE=/dev/null NATS_KEY_FILE=-----BEGIN_PRIVATE_KEY-----" + secret, false, "NATS_KEY_FILE (hidden)"},
		"a long key as NATS_KEY_FILE":     {"NATS_CERT_FILE=/dev/null NATS_KEY_FILE=-----BEGIN_PRIVATE_KEY-----" + strings.Repeat(secret, 200), false, "NATS_KEY_FILE (hidden)"},
		"a secret as NATS_CA_FILE":        {"NATS_CA_FILE=" + secret, false, "NATS_CA_FILE (hidden)"},
		"a secret as NATS_CERT_FILE":      {"NATS_KEY_FILE=/dev/null NATS_CERT_FILE=" + secret, false, "NATS_CERT_FILE (hidden)"},
		"a token as TWILIO_..._FILE":      {"TWILIO_ACCOUNT_SID=" + sid + " TWILIO_AUTH_TOKEN_FILE=" + secret, false, ""},
		"a token as ADMIN_TOKEN_FILE":     {"ADMIN_TOKEN_FILE=" + secret, false, ""},
		"a key as DATABASE_URL_FILE":      {"DATABASE_URL_FILE=/" + secret, false, ""},
		"a path of FLEX_URL":              {"FLEX_URL=https://127.0.0.1:1/" + secret + "/flex", true, "FLEX_URL https://127.0.0.1:1/(hidden)"},
		"a path of TASKROUTER_URL":        {"TASKROUTER_URL=https://127.0.0.1:1/" + secret, true, "TASKROUTER_URL https://127.0.0.1:1/(hidden)"},
		"a query of FLEX_URL":             {"FLEX_URL=https://127.0.0.1:1?key=" + secret, false, "FLEX_URL https://127.0.0.1:1"},
		"a fragment of FLEX_URL":          {"FLEX_URL=https://127.0.0.1:1#" + secret, false, "FLEX_URL https://127.0.0.1:1"},
		"a user of FLEX_URL":              {"FLEX_URL=https://" + secret + "@127.0.0.1:1", false, "FLEX_URL https://(hidden)@127.0.0.1:1"},
		"no address in FLEX_URL":          {"FLEX_URL=" + secret, false, "FLEX_URL (hidden)"},
		"a query of NATS_URL":             {"NATS_URL=nats://127.0.0.1:1?token=" + secret, true, "NATS_URL nats://127.0.0.1:1"},
		"a path of NATS_URL":              {"NATS_URL=nats://127.0.0.1:1/" + secret, true, "NATS_URL nats://127.0.0.1:1/(hidden)"},
		"a fragment of NATS_URL":          {"NATS_URL=nats://127.0.0.1:1#" + secret, true, "NATS_URL nats://127.0.0.1:1"},
		"headers of traces":               {"OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:1 OTEL_EXPORTER_OTLP_HEADERS=" + secret + ",api-key=" + secret + "%zz", true, ""},
		"a path of the traces' endpoint":  {"OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:1/" + secret, true, ""},
		"a query of the traces' endpoint": {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=http://127.0.0.1:1/?key=" + secret, true, ""},
		"sampler of traces":               {traced + "OTEL_TRACES_SAMPLER=" + secret, true, ""},
		"the sampler's argument":          {traced + "OTEL_TRACES_SAMPLER=traceidratio OTEL_TRACES_SAMPLER_ARG=" + secret, true, ""},
		"attributes of traces":            {traced + "OTEL_RESOURCE_ATTRIBUTES=" + secret, true, ""},
		"an attribute with an escape":     {traced + "OTEL_RESOURCE_ATTRIBUTES=key=%zz" + secret, true, ""},
		"numbers of traces":               {traced + "OTEL_BSP_SCHEDULE_DELAY=" + secret + " OTEL_BSP_MAX_QUEUE_SIZE=" + secret + " OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT=" + secret + " OTEL_EXPORTER_OTLP_TIMEOUT=" + secret, true, ""},
		"files of traces":                 {traced + "OTEL_EXPORTER_OTLP_CERTIFICATE=" + secret + " OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE=" + secret + " OTEL_EXPORTER_OTLP_CLIENT_KEY=" + secret, true, ""},
		"words of traces":                 {traced + "OTEL_EXPORTER_OTLP_COMPRESSION=" + secret + " OTEL_EXPORTER_OTLP_INSECURE=" + secret + " OTEL_PROPAGATORS=" + secret + " OTEL_LOG_LEVEL=" + secret, true, ""},
		"an exporter of traces":           {traced + "OTEL_TRACES_EXPORTER=" + secret, true, ""},
		"a protocol of traces":            {traced + "OTEL_EXPORTER_OTLP_PROTOCOL=" + secret, true, ""},
		"a user of the proxy":             {"HTTPS_PROXY=http://svc:" + secret + "@127.0.0.1:1", true, ""},
		"a path of the proxy":             {"HTTPS_PROXY=http://127.0.0.1:1/" + secret, false, ""},
		"a query of DATABASE_URL":         {"DATABASE_URL=postgres://127.0.0.1:1/base?password=" + secret + "&sslpassword=" + secret, true, ""},
	} {
		env := []string{"FLEXWORKER_TEST_CHILD=1", "DATABASE_URL=postgres://127.0.0.1:1/base", "NATS_URL=nats://127.0.0.1:1", "ADMIN_ADDR=", "LOG_LEVEL=debug", "LOG_FORMAT=text"}
		if !strings.Contains(tt.env, "TWILIO_") {
			env = append(env, "TWILIO_ACCOUNT_SID="+sid, "TWILIO_AUTH_TOKEN=t")
		}
		if strings.Contains(tt.env, "DATABASE_URL_FILE") {
			env = slices.DeleteFunc(env, func(e string) bool { return strings.HasPrefix(e, "DATABASE_URL=") })
		}
		env = append(env, strings.Fields(tt.env)...)
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := &rig{t: t, program: plain}
			for _, verb := range []string{"config", "config --json", "list", "migrate status", "migrate up", "send " + file, "healthcheck"} {
				status, out, errs := r.try(env, strings.Fields(verb)...)
				if piece := shows(out+errs, secret) + shows(out+errs, seed); piece != "" {
					t.Errorf("worker %s shows %q:\n%s%s", verb, piece, out, errs)
				}
				if strings.HasPrefix(verb, "config") && (status == 0) != tt.starts {
					t.Errorf("worker %s: status %d\n%s%s", verb, status, out, errs)
				}
				if said := strings.Join(strings.Fields(out), " "); verb == "config" && tt.shows != "" && !strings.Contains(said, tt.shows+" ") {
					t.Errorf("worker config does not show %q:\n%s", tt.shows, out)
				}
			}
			status, log := r.tries(env)
			if (status == 0) != tt.starts {
				t.Errorf("run: status %d", status)
			}
			seen := numbers.ReplaceAllString(log, "")
			if piece := shows(seen, secret) + shows(seen, seed); piece != "" {
				t.Errorf("worker run shows %q:\n%s", piece, log)
			}
		})
	}
}
