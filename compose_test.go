package flexworker_test

import (
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/compose-spec/compose-go/v2/types"

	"flexworker/internal/testing/flextest"
)

// settings are the names of contract and README; a variable of another name on a worker would be obeyed by silence.
var settings = strings.Fields(`
	DATABASE_URL DATABASE_URL_FILE MIGRATE NATS_URL NATS_CREDS_FILE NATS_CA_FILE NATS_CERT_FILE NATS_KEY_FILE
	REQUESTS_STREAM REQUESTS_SUBJECT REQUESTS_CONSUMER RESULTS_STREAM RESULTS_SUBJECT CREATE_STREAMS
	TWILIO_ACCOUNT_SID TWILIO_AUTH_TOKEN TWILIO_AUTH_TOKEN_FILE TWILIO_API_KEY TWILIO_API_SECRET TWILIO_API_SECRET_FILE
	FLEX_URL TASKROUTER_URL FLEX_INSECURE_HTTP FLEX_TIMEOUT FLEX_CONCURRENCY FLEX_RATE RETRY_MAX_ATTEMPTS RETRY_MIN_DELAY RETRY_MAX_DELAY
	LOOKUP_ATTRIBUTE LOOKUP_SETTLE UNCERTAIN_POLICY RETENTION SHUTDOWN_GRACE ADMIN_ADDR ADMIN_TOKEN ADMIN_TOKEN_FILE
	ADMIN_READ_TOKEN ADMIN_READ_TOKEN_FILE TRUSTED_PROXIES LOG_LEVEL LOG_FORMAT`)

// standard are names that Go itself or the OpenTelemetry SDK reads.
var standard = regexp.MustCompile(`^(SSL_CERT_(FILE|DIR)|HTTPS?_PROXY|NO_PROXY|GOMEMLIMIT|GOMAXPROCS|PGPASSWORD|OTEL_[A-Z_]+)$`)

// The two commands of the README.
const (
	twilio = ""         // docker compose up
	demo   = "demo.env" // docker compose --env-file demo.env up
)

// load reads docker-compose.yml as `docker compose` does, with nothing but this in the environment.
func load(t *testing.T, envFile string, environment ...string) *types.Project {
	t.Helper()
	with := []cli.ProjectOptionsFn{cli.WithEnv(environment)}
	if envFile != "" {
		with = append(with, cli.WithEnvFiles(envFile), cli.WithDotEnv)
	}
	with = append(with, cli.WithDefaultProfiles(), cli.WithInterpolation(true))
	options, err := cli.NewProjectOptions([]string{"docker-compose.yml"}, with...)
	if err != nil {
		t.Fatal(err)
	}
	project, err := options.LoadProject(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return project
}

// both runs a test with each of the two.
func both(t *testing.T, test func(t *testing.T, p *types.Project)) {
	t.Helper()
	t.Run("twilio", func(t *testing.T) { test(t, load(t, twilio, "TWILIO_ACCOUNT_SID=ACmine")) })
	t.Run("demo", func(t *testing.T) { test(t, load(t, demo)) })
}

// value of a variable, "" also when it is not set.
func value(s types.ServiceConfig, name string) string {
	if v := s.Environment[name]; v != nil {
		return *v
	}
	return ""
}

func TestComposeServices(t *testing.T) {
	if got, want := load(t, twilio).ServiceNames(), []string{"migrate", "nats", "postgres", "worker"}; !slices.Equal(got, want) {
		t.Errorf("services %q, want %q", got, want)
	}
	p := load(t, demo)
	if got, want := p.ServiceNames(), []string{"endpoint", "migrate", "nats", "postgres", "worker"}; !slices.Equal(got, want) {
		t.Errorf("demo: services %q, want %q", got, want)
	}
	// Or the workers against Twilio would carry out what the demo left.
	if p.Name == load(t, twilio).Name || p.Volumes["postgres"].Name == load(t, twilio).Volumes["postgres"].Name {
		t.Errorf("the demo has the database of %s", p.Name)
	}
}

func TestComposeRunsTwoReplicas(t *testing.T) {
	both(t, func(t *testing.T, p *types.Project) {
		s := p.Services["worker"]
		if s.GetScale() != 2 || s.ContainerName != "" {
			t.Errorf("%d replicas, name %q", s.GetScale(), s.ContainerName)
		}
		first, last, _ := strings.Cut(s.Ports[0].Published, "-")
		if len(s.Ports) != 1 || last == "" || last <= first {
			t.Errorf("replicas share the port %s", s.Ports[0].Published)
		}
	})
}

// TestComposeStartsInOrder: schema and streams before workers, databases before the schema, each when it is healthy.
func TestComposeStartsInOrder(t *testing.T) {
	both(t, func(t *testing.T, p *types.Project) {
		if d := p.Services["migrate"].DependsOn; len(d) != 1 || d["postgres"].Condition != types.ServiceConditionHealthy || !d["postgres"].Required {
			t.Errorf("migrate waits for %+v", d)
		}
		d := p.Services["worker"].DependsOn
		if d["migrate"].Condition != types.ServiceConditionCompletedSuccessfully || !d["migrate"].Required ||
			d["nats"].Condition != types.ServiceConditionHealthy || !d["nats"].Required {
			t.Errorf("worker waits for %+v", d)
		}
		if e, ok := d["endpoint"]; ok && (e.Required || e.Condition != types.ServiceConditionHealthy) {
			t.Errorf("worker waits for the endpoint: %+v", e)
		}
		if _, ok := d["endpoint"]; !ok && p.Services["endpoint"].Name != "" {
			t.Error("the worker does not wait for the endpoint")
		}
		for name, s := range p.Services {
			if name != "migrate" && (s.HealthCheck == nil || s.HealthCheck.Disable || len(s.HealthCheck.Test) < 2) {
				t.Errorf("%s has no health check", name)
			}
		}
	})
}

// TestComposeEnvironment: names that exist, and values that are not empty, since set but empty beats the default.
func TestComposeEnvironment(t *testing.T) {
	check := func(t *testing.T, p *types.Project) {
		for name, s := range p.Services {
			for key, v := range s.Environment {
				if v != nil && *v == "" {
					t.Errorf("%s: %s is set but empty", name, key)
				}
				if s.Build != nil && s.Build.Target == "worker" && !slices.Contains(settings, key) && !standard.MatchString(key) {
					t.Errorf("%s: %s is not a setting", name, key)
				}
			}
		}
	}
	both(t, check)
	check(t, load(t, twilio))
}

// TestComposeAgainstTwilio: defaults for what is not set, so https alone, and the machine's own SSL_CERT_FILE is not the
// containers'.
func TestComposeAgainstTwilio(t *testing.T) {
	s := load(t, twilio, "TWILIO_ACCOUNT_SID=ACmine", "SSL_CERT_FILE=/nix/ca.crt").Services["worker"]
	for key, want := range map[string]string{"TWILIO_ACCOUNT_SID": "ACmine", "FLEX_URL": "", "TASKROUTER_URL": "", "FLEX_INSECURE_HTTP": "", "SSL_CERT_FILE": ""} {
		if got := value(s, key); got != want {
			t.Errorf("%s is %q, want %q", key, got, want)
		}
	}
	for _, key := range []string{"FLEX_URL", "TASKROUTER_URL", "FLEX_INSECURE_HTTP"} {
		if v := s.Environment[key]; v != nil {
			t.Errorf("%s is set", key)
		}
	}
}

// TestComposeSecrets: what authenticates comes from a file, and no file of value is in the repository.
func TestComposeSecrets(t *testing.T) {
	both(t, func(t *testing.T, p *types.Project) {
		s := p.Services["worker"]
		// A directory: the mount of a file keeps the old one when another is moved over it.
		if file := value(s, "TWILIO_AUTH_TOKEN_FILE"); len(s.Volumes) != 1 || file != s.Volumes[0].Target+"/twilio_auth_token" || s.Volumes[0].Type != "bind" ||
			!s.Volumes[0].ReadOnly || bool(s.Volumes[0].Bind.CreateHostPath) || len(s.Secrets) != 0 {
			t.Errorf("token from %q, volumes %+v, secrets %v", file, s.Volumes, s.Secrets)
		}
		for _, key := range []string{"TWILIO_AUTH_TOKEN", "TWILIO_API_SECRET"} {
			if _, ok := s.Environment[key]; ok {
				t.Errorf("%s is in the environment", key)
			}
		}
	})
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	if file := load(t, twilio).Services["worker"].Volumes[0].Source; file != filepath.Join(here, "secrets") {
		t.Errorf("the real token is in %s", file)
	}
	for ignore, names := range map[string][]string{".gitignore": {"secrets/", ".env"}, ".dockerignore": {"secrets", ".env*"}} {
		lines := strings.Split(read(t, ignore), "\n")
		for _, name := range names {
			if !slices.Contains(lines, name) {
				t.Errorf("%s does not name %s", ignore, name)
			}
		}
	}
	entries, err := os.ReadDir("deploy/demo")
	if err != nil || len(entries) != 1 || entries[0].Name() != "twilio_auth_token" {
		t.Errorf("deploy/demo: %v %v", entries, err)
	}
	if token := read(t, filepath.Join(load(t, demo).Services["worker"].Volumes[0].Source, "twilio_auth_token")); token != flextest.AuthToken+"\n" {
		t.Error("the demo's token is not the made-up one")
	}
	genuine := regexp.MustCompile(`(?i)\b(AC|SK)?[0-9a-f]{32}\b`)
	for _, file := range []string{"demo.env", "docker-compose.yml", "Dockerfile"} {
		if found := genuine.FindString(read(t, file)); found != "" {
			t.Errorf("%s: %s looks real", file, found)
		}
	}
}

// TestComposePassword: whatever the password of Postgres holds, it stands in no address, and every session has it.
func TestComposePassword(t *testing.T) {
	const password = `p@ss/w#rd?,% '`
	p := load(t, twilio, "TWILIO_ACCOUNT_SID=ACmine", "POSTGRES_PASSWORD="+password)
	if got := value(p.Services["postgres"], "POSTGRES_PASSWORD"); got != password {
		t.Errorf("Postgres has %q", got)
	}
	for _, name := range []string{"worker", "migrate"} {
		address, err := url.Parse(value(p.Services[name], "DATABASE_URL"))
		if err != nil || address.User.Username() != "worker" || address.Host != "postgres:5432" || address.Path != "/worker" {
			t.Errorf("%s: %v %v", name, address, err)
		}
		if _, set := address.User.Password(); set || value(p.Services[name], "PGPASSWORD") != password {
			t.Errorf("%s has %q, and in its address %v", name, value(p.Services[name], "PGPASSWORD"), address)
		}
	}
}

// TestComposeSettings: what is set outside reaches the workers, and what is not is not set to nothing.
func TestComposeSettings(t *testing.T) {
	set := map[string]string{"FLEX_RATE": "3", "FLEX_TIMEOUT": "9s", "LOG_LEVEL": "debug", "UNCERTAIN_POLICY": "fail"}
	environment := []string{"TWILIO_ACCOUNT_SID=ACmine"}
	for name, v := range set {
		environment = append(environment, name+"="+v)
	}
	with, without := load(t, twilio, environment...).Services["worker"], load(t, twilio, "TWILIO_ACCOUNT_SID=ACmine").Services["worker"]
	for name, want := range set {
		if got := value(with, name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
		if v, named := without.Environment[name]; !named || v != nil {
			t.Errorf("%s is set although nobody has set it", name)
		}
	}
}

// TestComposeBounds: logs and the workers' memory have limits.
func TestComposeBounds(t *testing.T) {
	both(t, func(t *testing.T, p *types.Project) {
		for name, s := range p.Services {
			if s.Logging == nil || s.Logging.Driver != "local" {
				t.Errorf("%s keeps its log without end: %+v", name, s.Logging)
			}
		}
		if limit := p.Services["worker"].Deploy.Resources.Limits; limit == nil || limit.MemoryBytes < 128<<20 {
			t.Errorf("a worker's memory is %+v", limit)
		}
	})
}

// TestComposeDemo: the workers speak to the endpoint by plain http, on the network of the project, with credentials that
// it accepts; nothing of it is a volume.
func TestComposeDemo(t *testing.T) {
	for _, p := range []*types.Project{load(t, demo), load(t, demo, "TWILIO_ACCOUNT_SID=ACmine", "SSL_CERT_FILE=/nix/ca.crt")} {
		worker, endpoint := p.Services["worker"], p.Services["endpoint"]
		for _, key := range []string{"FLEX_URL", "TASKROUTER_URL"} {
			address, err := url.Parse(value(worker, key))
			if err != nil || address.Scheme != "http" || address.Hostname() != endpoint.Name || address.Port() != "9090" ||
				!strings.Contains(stage(t, "endpoint"), "EXPOSE "+address.Port()) {
				t.Errorf("%s is %v, %v", key, address, err)
			}
		}
		if allowed := value(worker, "FLEX_INSECURE_HTTP"); allowed != "true" {
			t.Errorf("plain http to the endpoint is allowed: %q", allowed)
		}
		if sid := value(worker, "TWILIO_ACCOUNT_SID"); sid != value(endpoint, "ACCOUNT_SID") || !strings.HasPrefix(sid, "AC") {
			t.Errorf("the worker is %q, the endpoint expects %q", sid, value(endpoint, "ACCOUNT_SID"))
		}
		if _, ok := endpoint.Environment["AUTH_TOKEN"]; ok {
			t.Error("the endpoint accepts another token than its default")
		}
		if len(worker.Volumes) != 1 || len(endpoint.Volumes) > 0 { // the secrets of the one
			t.Errorf("volumes %v and %v", worker.Volumes, endpoint.Volumes)
		}
	}
}

// TestComposeGrace: a worker gets longer to stop than it takes.
func TestComposeGrace(t *testing.T) {
	both(t, func(t *testing.T, p *types.Project) {
		s := p.Services["worker"]
		grace, err := time.ParseDuration(value(s, "SHUTDOWN_GRACE"))
		if err != nil {
			t.Fatal(err)
		}
		if s.StopGracePeriod == nil || time.Duration(*s.StopGracePeriod) <= grace {
			t.Errorf("killed after %v, stops in up to %v", s.StopGracePeriod, grace)
		}
	})
}

// TestComposePinsImages: an exact version for what is pulled; nothing runs as root but what drops it itself.
func TestComposePinsImages(t *testing.T) {
	pinned := regexp.MustCompile(`^(postgres:17\.\d+|nats:2\.15\.\d+-alpine)$`)
	both(t, func(t *testing.T, p *types.Project) {
		for name, s := range p.Services {
			if !slices.Equal(s.SecurityOpt, []string{"no-new-privileges:true"}) || s.Privileged {
				t.Errorf("%s: may gain privileges", name)
			}
			if s.Build == nil && !pinned.MatchString(s.Image) {
				t.Errorf("%s: image %s is not pinned", name, s.Image)
			}
			if s.Build != nil && (!s.ReadOnly || !slices.Equal(s.CapDrop, []string{"ALL"}) || s.User != "") {
				t.Errorf("%s: may write, has capabilities or another user than its image's", name)
			}
		}
		if config := p.Configs["nats"].Content; !strings.Contains(config, "sync_interval: always") {
			t.Error("nats does not sync always")
		}
	})
}

func read(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// stage is the part of the Dockerfile from one FROM to the next.
func stage(t *testing.T, name string) string {
	t.Helper()
	text := read(t, "Dockerfile")
	_, rest, ok := strings.Cut(text, " AS "+name+"\n")
	if !ok {
		t.Fatalf("no stage %s", name)
	}
	lines := strings.Split(text[:len(text)-len(rest)], "\n")
	from := lines[len(lines)-2]
	rest, _, _ = strings.Cut(rest, "\nFROM ")
	return from + "\n" + rest
}

func TestDockerfile(t *testing.T) {
	language := regexp.MustCompile(`(?m)^go (\d+\.\d+)`).FindStringSubmatch(read(t, "go.mod"))[1]
	if from := stage(t, "build"); !regexp.MustCompile(`^FROM golang:` + regexp.QuoteMeta(language) + `\.\d+-`).MatchString(from) {
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
	// With another version the endpoint's build would compile the worker, too, once more.
	p := load(t, demo)
	if w, e := p.Services["worker"].Build.Args["VERSION"], p.Services["endpoint"].Build.Args["VERSION"]; w == nil || e == nil || *w != *e {
		t.Error("worker and endpoint are built with different versions")
	}
	for _, mount := range []string{"type=cache,target=/go/pkg/mod go mod download", "type=cache,target=/root/.cache/go-build"} {
		if !strings.Contains(stage(t, "build"), mount) {
			t.Errorf("the build lacks the mount %s", mount)
		}
	}
	if !strings.Contains(stage(t, "build"), "CGO_ENABLED=0") {
		t.Error("the binaries would not be static")
	}
}
