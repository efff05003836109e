package flexworker_test

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/compose-spec/compose-go/v2/types"
)

// settings are the names of contract and README; a variable of another name on a worker would be obeyed by silence.
var settings = strings.Fields(`
	DATABASE_URL MIGRATE NATS_URL NATS_CREDS_FILE NATS_CA_FILE NATS_CERT_FILE NATS_KEY_FILE
	REQUESTS_STREAM REQUESTS_SUBJECT REQUESTS_CONSUMER RESULTS_STREAM RESULTS_SUBJECT CREATE_STREAMS
	TWILIO_ACCOUNT_SID TWILIO_AUTH_TOKEN TWILIO_AUTH_TOKEN_FILE TWILIO_API_KEY TWILIO_API_SECRET TWILIO_API_SECRET_FILE
	FLEX_URL TASKROUTER_URL FLEX_TIMEOUT FLEX_CONCURRENCY FLEX_RATE RETRY_MAX_ATTEMPTS RETRY_MIN_DELAY RETRY_MAX_DELAY
	LOOKUP_ATTRIBUTE LOOKUP_SETTLE UNCERTAIN_POLICY RETENTION SHUTDOWN_GRACE ADMIN_ADDR ADMIN_TOKEN LOG_LEVEL LOG_FORMAT`)

// load reads docker-compose.yml as `docker compose` does, with nothing in the environment.
func load(t *testing.T, profiles ...string) *types.Project {
	t.Helper()
	options, err := cli.NewProjectOptions([]string{"docker-compose.yml"}, cli.WithProfiles(profiles), cli.WithInterpolation(true))
	if err != nil {
		t.Fatal(err)
	}
	project, err := options.LoadProject(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return project
}

// workers of a project, by the program that they run.
func workers(p *types.Project) (found []types.ServiceConfig) {
	for _, name := range p.ServiceNames() {
		if s := p.Services[name]; s.Build != nil && s.Build.Target == "worker" && len(s.Command) == 0 {
			found = append(found, s)
		}
	}
	return found
}

func TestComposeProfiles(t *testing.T) {
	for profile, want := range map[string][]string{
		"":     {"migrate", "nats", "postgres"},
		"demo": {"endpoint", "migrate", "nats", "postgres", "worker-demo-1", "worker-demo-2"},
		"live": {"migrate", "nats", "postgres", "worker"},
	} {
		if got := load(t, profile).ServiceNames(); !slices.Equal(got, want) {
			t.Errorf("profile %q: services %q, want %q", profile, got, want)
		}
	}
}

func TestComposeRunsTwoReplicas(t *testing.T) {
	for _, profile := range []string{"demo", "live"} {
		replicas := 0
		for _, s := range workers(load(t, profile)) {
			replicas += s.GetScale()
		}
		if replicas != 2 {
			t.Errorf("profile %s: %d replicas, want 2", profile, replicas)
		}
	}
}

// TestComposeStartsInOrder: schema and streams before workers, databases before the schema, each when it is healthy.
func TestComposeStartsInOrder(t *testing.T) {
	p := load(t, "*")
	want := map[string]map[string]string{
		"migrate":       {"postgres": types.ServiceConditionHealthy},
		"worker":        {"migrate": types.ServiceConditionCompletedSuccessfully, "nats": types.ServiceConditionHealthy},
		"worker-demo-1": {"migrate": types.ServiceConditionCompletedSuccessfully, "nats": types.ServiceConditionHealthy, "endpoint": types.ServiceConditionHealthy},
	}
	want["worker-demo-2"] = want["worker-demo-1"]
	for name, needs := range want {
		for other, condition := range needs {
			if got := p.Services[name].DependsOn[other].Condition; got != condition {
				t.Errorf("%s needs %s to be %s, want %s", name, other, got, condition)
			}
		}
	}
	for name, s := range p.Services {
		if name != "migrate" && (s.HealthCheck == nil || s.HealthCheck.Disable || len(s.HealthCheck.Test) < 2) {
			t.Errorf("%s has no health check", name)
		}
	}
}

// TestComposeEnvironment: names that exist, and values that are not empty, since set but empty beats the default.
func TestComposeEnvironment(t *testing.T) {
	for name, s := range load(t, "*").Services {
		for key, value := range s.Environment {
			if value != nil && *value == "" {
				t.Errorf("%s: %s is set but empty", name, key)
			}
			if s.Build != nil && s.Build.Target == "worker" && !slices.Contains(settings, key) {
				t.Errorf("%s: %s is not a setting", name, key)
			}
		}
	}
}

// TestComposeSecrets: what authenticates against Twilio comes from a file, and only on the live workers.
func TestComposeSecrets(t *testing.T) {
	for _, s := range workers(load(t, "live")) {
		file := s.Environment["TWILIO_AUTH_TOKEN_FILE"]
		if file == nil || *file != "/run/secrets/twilio_auth_token" || len(s.Secrets) != 1 || s.Secrets[0].Source != "twilio_auth_token" {
			t.Errorf("%s: token from %v, secrets %v", s.Name, file, s.Secrets)
		}
		if _, ok := s.Environment["TWILIO_AUTH_TOKEN"]; ok {
			t.Errorf("%s: the token is in the environment", s.Name)
		}
	}
}

// TestComposeDemoIsLoopback: plain http is allowed to a loopback address only, so the demo's workers live where the
// endpoint is on one, each with a port of its own.
func TestComposeDemoIsLoopback(t *testing.T) {
	p := load(t, "demo")
	admin := make(map[string]string)
	for _, s := range workers(p) {
		for _, key := range []string{"FLEX_URL", "TASKROUTER_URL"} {
			if url := s.Environment[key]; url == nil || *url != "http://127.0.0.1:9090" {
				t.Errorf("%s: %s is %v", s.Name, key, url)
			}
		}
		if s.NetworkMode != "service:endpoint" {
			t.Errorf("%s: network %q", s.Name, s.NetworkMode)
		}
		addr := *s.Environment["ADMIN_ADDR"]
		if other, taken := admin[addr]; taken {
			t.Errorf("%s and %s both listen on %s", other, s.Name, addr)
		}
		admin[addr] = s.Name
		if !slices.ContainsFunc(p.Services["endpoint"].Ports, func(port types.ServicePortConfig) bool { return ":"+port.Published == addr }) {
			t.Errorf("%s: %s is not published", s.Name, addr)
		}
		for own, theirs := range map[string]string{"TWILIO_ACCOUNT_SID": "ACCOUNT_SID", "TWILIO_AUTH_TOKEN": "AUTH_TOKEN"} {
			if *s.Environment[own] != *p.Services["endpoint"].Environment[theirs] {
				t.Errorf("%s: %s is not what the endpoint expects", s.Name, own)
			}
		}
	}
}

// TestComposeGrace: a worker gets longer to stop than it takes.
func TestComposeGrace(t *testing.T) {
	for _, profile := range []string{"demo", "live"} {
		for _, s := range workers(load(t, profile)) {
			grace, err := time.ParseDuration(*s.Environment["SHUTDOWN_GRACE"])
			if err != nil {
				t.Fatal(err)
			}
			if s.StopGracePeriod == nil || time.Duration(*s.StopGracePeriod) <= grace {
				t.Errorf("%s: killed after %v, stops in up to %v", s.Name, s.StopGracePeriod, grace)
			}
		}
	}
}

// TestComposePinsImages: an exact version for what is pulled; nothing runs as root but what drops it itself.
func TestComposePinsImages(t *testing.T) {
	p := load(t, "*")
	pinned := regexp.MustCompile(`^(postgres:17\.\d+|nats:2\.15\.\d+-alpine)$`)
	for name, s := range p.Services {
		if s.Build == nil && !pinned.MatchString(s.Image) {
			t.Errorf("%s: image %s is not pinned", name, s.Image)
		}
		if s.Build != nil && (!s.ReadOnly || !slices.Equal(s.CapDrop, []string{"ALL"})) {
			t.Errorf("%s: may write or has capabilities", name)
		}
	}
	if config := p.Configs["nats"].Content; !strings.Contains(config, "sync_interval: always") {
		t.Error("nats does not sync always")
	}
}

// stage is the part of the Dockerfile from one FROM to the next.
func stage(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile("Dockerfile")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(text), " AS "+name+"\n")
	if !ok {
		t.Fatalf("no stage %s", name)
	}
	lines := strings.Split(string(text[:len(text)-len(rest)]), "\n")
	from := lines[len(lines)-2]
	rest, _, _ = strings.Cut(rest, "\nFROM ")
	return from + "\n" + rest
}

func TestDockerfile(t *testing.T) {
	module, err := os.ReadFile("go.mod")
	if err != nil {
		t.Fatal(err)
	}
	language := regexp.MustCompile(`(?m)^go (\d+\.\d+)`).FindSubmatch(module)[1]
	if from := stage(t, "build"); !regexp.MustCompile(`^FROM golang:` + regexp.QuoteMeta(string(language)) + `\.\d+-`).MatchString(from) {
		t.Errorf("builder %q is not a pinned Go %s", from, language)
	}
	for _, name := range []string{"worker", "endpoint"} {
		s := stage(t, name)
		for _, want := range []string{
			`^FROM scratch `,
			`(?m)^USER [1-9]\d*:[1-9]\d*$`,
			`(?m)^ENTRYPOINT \["/` + name + `"\]$`,
			`(?m)^HEALTHCHECK .*CMD \["/` + name + `", "healthcheck"\]$`,
		} {
			if !regexp.MustCompile(want).MatchString(s) {
				t.Errorf("stage %s lacks %s", name, want)
			}
		}
	}
	if !strings.Contains(stage(t, "worker"), "ca-certificates.crt") {
		t.Error("the worker would trust nobody")
	}
	if !strings.Contains(stage(t, "build"), "CGO_ENABLED=0") {
		t.Error("the binaries would not be static")
	}
}
