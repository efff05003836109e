package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"flexworker/internal/database"
)

// tableRows are the lines of a page that are rows of a table.
func tableRows(t *testing.T, page string) []string {
	t.Helper()
	text, err := os.ReadFile("../../" + page)
	if err != nil {
		t.Fatal(err)
	}
	var rows []string
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(line, "|") {
			rows = append(rows, line)
		}
	}
	return rows
}

// TestConfigurationListsSettings: every setting has a row with its name and its default.
func TestConfigurationListsSettings(t *testing.T) {
	t.Parallel()
	const page = "docs/configuration.md"
	rows := tableRows(t, page)
	fields := reflect.TypeFor[Config]()
	for i := range fields.NumField() {
		name, value := fields.Field(i).Tag.Get("envconfig"), fields.Field(i).Tag.Get("default")
		listed := slices.ContainsFunc(rows, func(row string) bool {
			first, rest, _ := strings.Cut(row[1:], "|")
			return strings.Contains(first, "`"+name+"`") && (value == "" || strings.Contains(rest, "`"+value+"`"))
		})
		if !listed {
			t.Errorf("%s has no table row for `%s` with its default `%s`", page, name, value)
		}
	}
}

// TestChartTakesSettings: the schema of the chart's values has every setting and no other, those that are secret among
// the files of Secrets alone.
func TestChartTakesSettings(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../deploy/helm/flexworker/values.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	var schema struct {
		Properties struct {
			Settings, Secrets struct{ Properties map[string]any }
		}
	}
	if err := json.Unmarshal(text, &schema); err != nil {
		t.Fatal(err)
	}
	settings, files := schema.Properties.Settings.Properties, schema.Properties.Secrets.Properties
	for _, name := range []string{"PGSSLROOTCERT", "PGSSLCERT", "PGSSLKEY", "PGPASSFILE", "SSL_CERT_FILE"} { // pgx and Go read these
		delete(files, name)
	}
	fields := reflect.TypeFor[Config]()
	for i := range fields.NumField() {
		name, among := fields.Field(i).Tag.Get("envconfig"), settings
		switch {
		case fields.Field(i).Type == reflect.TypeFor[Secret]():
			name, among = name+"_FILE", files
		case strings.HasSuffix(name, "_FILE"):
			among = files
		}
		if among[name] == nil {
			t.Errorf("the chart does not take %s", name)
		}
		delete(among, name)
	}
	for name := range settings {
		t.Errorf("the chart takes %s, which is no setting", name)
	}
	for name := range files {
		t.Errorf("the chart takes the file of %s, which is no setting", name)
	}
}

// TestReleaseImage: the image of a release runs as that of Dockerfile does, with the certificates of the same base.
func TestReleaseImage(t *testing.T) {
	t.Parallel()
	texts := map[string]string{}
	for _, name := range []string{"Dockerfile", "Dockerfile.release"} {
		text, err := os.ReadFile("../../" + name)
		if err != nil {
			t.Fatal(err)
		}
		texts[name] = string(text)
	}
	if _, worker, ok := strings.Cut(texts["Dockerfile"], "FROM scratch AS worker\n"); ok {
		for _, word := range []string{"USER", "EXPOSE", "HEALTHCHECK", "ENTRYPOINT"} {
			line := regexp.MustCompile(`(?m)^` + word + ` .*$`)
			if got, want := line.FindString(texts["Dockerfile.release"]), line.FindString(worker); got != want || got == "" {
				t.Errorf("Dockerfile.release has %q, Dockerfile %q", got, want)
			}
		}
	} else {
		t.Error("Dockerfile has no stage worker")
	}
	base := regexp.MustCompile(`golang:\S+`)
	if got, want := base.FindString(texts["Dockerfile.release"]), base.FindString(texts["Dockerfile"]); got != want {
		t.Errorf("the certificates are those of %s, not of %s", got, want)
	}
}

// exportedMetrics are the names of the worker's own metrics.
func exportedMetrics() map[string]bool {
	descs := make(chan *prometheus.Desc, 100)
	for _, c := range (&app{state: newState()}).collectors() {
		c.Describe(descs)
	}
	close(descs)
	names := map[string]bool{}
	for d := range descs {
		names[regexp.MustCompile(`fqName: "([^"]+)"`).FindStringSubmatch(d.String())[1]] = true
	}
	return names
}

// TestOperatingListsMetrics: every metric has a row, and the page has none that is
// not exported.
func TestOperatingListsMetrics(t *testing.T) {
	t.Parallel()
	const page = "docs/operating.md"
	rows := strings.Join(tableRows(t, page), "")
	exported := exportedMetrics()
	for name := range exported {
		if !strings.Contains(rows, "`"+name+"`") && !strings.Contains(rows, "`"+name+"{") {
			t.Errorf("%s has no table row for the metric `%s`", page, name)
		}
	}
	for _, name := range regexp.MustCompile("`(flexworker_[a-z_]+)").FindAllStringSubmatch(rows, -1) {
		if !exported[name[1]] {
			t.Errorf("%s lists the metric `%s`, which is not exported", page, name[1])
		}
	}
}

// TestReadmeIsTheFrontDoor: README is read in ten minutes; everything else has a page, which says in
// its first lines for whom it is, and which README links.
func TestReadmeIsTheFrontDoor(t *testing.T) {
	t.Parallel()
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(readme), "\n"); n > 150 {
		t.Errorf("README has %d lines, at most 150 are wanted", n)
	}
	pages, err := filepath.Glob("../../docs/*.md")
	if err != nil || len(pages) == 0 {
		t.Fatal(pages, err)
	}
	for _, page := range pages {
		name := "docs/" + filepath.Base(page)
		if !strings.Contains(string(readme), "("+name+")") {
			t.Errorf("README does not link %s", name)
		}
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		lines := strings.SplitN(string(text), "\n", 4)
		if len(lines) < 4 || !strings.HasPrefix(lines[2], "For ") {
			t.Errorf("%s does not say below its title for whom it is", name)
		}
	}
}

// TestScaleListsSession: pgbouncer is told to ignore whatever it refuses of our start
// of a session, and the role has what is ignored.
func TestScaleListsSession(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../docs/scale.md")
	if err != nil {
		t.Fatal(err)
	}
	_, list, _ := strings.Cut(string(text), "ignore_startup_parameters = ")
	list, roles, _ := strings.Cut(list, "\n")
	ignored := strings.Split(list, ", ")
	pool, err := openPool(t.Context(), secretOf("postgres://127.0.0.1/x"), 1, statementTimeout, forWorking)
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	passed := []string{"application_name", "TimeZone", "DateStyle", "client_encoding", "standard_conforming_strings"} // by pgbouncer itself
	params := pool.Config().ConnConfig.RuntimeParams
	reading, err := openPool(t.Context(), secretOf("postgres://127.0.0.1/x"), 1, statementTimeout, database.ForReads)
	if err != nil {
		t.Fatal(err)
	}
	defer reading.Close()
	looks := maps.Clone(reading.Config().ConnConfig.RuntimeParams)
	for name, value := range params {
		if slices.Contains(passed, name) {
			continue
		}
		if !slices.Contains(ignored, name) {
			t.Errorf("docs/scale.md does not have %s ignored", name)
		}
		if set := fmt.Sprintf("SET %s = '%s';", name, value); name != "tcp_keepalives_idle" && !strings.Contains(roles, set) {
			t.Errorf("docs/scale.md does not say %s", set)
		}
	}
	for name := range params {
		delete(looks, name)
	}
	for name := range looks { // of the page: the role's settings are the loops', and will do
		if !slices.Contains(ignored, name) {
			t.Errorf("docs/scale.md does not have %s ignored", name)
		}
	}
	for _, name := range ignored {
		if params[name] == "" && looks[name] == "" {
			t.Errorf("docs/scale.md has %s ignored, which no session of ours has", name)
		}
	}
}

// rule is what a package must not import, and why.
type rule struct {
	pkg     string
	direct  bool // by itself, rather than also through others
	forbids []string
	why     string
}

// TestImports holds the house's table: the import graph is the event's journey,
// consumer -> outbox -> flex, and the outside world of the tests stays outside.
func TestImports(t *testing.T) {
	t.Parallel()
	const journey = "the import graph is the event's journey: consumer -> outbox -> flex, and nothing points back"
	testing := []string{"flexworker/internal/testing", "github.com/nats-io/nats-server", "testing"}
	for _, r := range []rule{
		{"cmd/worker", false, testing, "the fakes and a NATS server must not be linked into the worker"},
		{"cmd/worker", true, []string{"flexworker/internal/rawjson", "database/sql", "github.com/pressly/goose"}, "it joins the parts; it contains neither SQL nor a rule of the domain"},
		{"internal/consumer", false, []string{"flexworker/cmd", "flexworker/migrations"}, journey},
		{"internal/consumer", true, []string{"net/http", "database/sql", "os", "github.com/jackc/pgx", "github.com/kelseyhightower/envconfig"}, "it knows messages; every statement is the outbox's and every call is flex's"},
		{"internal/outbox", false, []string{"flexworker/internal/admin", "flexworker/internal/consumer", "flexworker/cmd", "flexworker/migrations"}, journey},
		{"internal/outbox", true, []string{"net/http", "os", "flag", "github.com/spf13", "github.com/kelseyhightower/envconfig", "github.com/prometheus"}, "it reads no environment and knows neither flags nor HTTP"},
		{"internal/outbox", false, []string{"flexworker/internal/admin"}, "page and API translate for people; the outbox knows neither"},
		{"internal/admin/page", true, []string{"flexworker/internal/flex", "flexworker/internal/outbox/lookup", "github.com/jackc/pgx", "database/sql", "os"}, "it asks the Desk, which alone checks rights, and nobody else"},
		{"internal/flex", false, []string{"flexworker/internal/outbox", "flexworker/internal/consumer", "flexworker/cmd", "flexworker/migrations", "github.com/nats-io", "github.com/jackc", "github.com/cenkalti"}, "it makes one call; it does not retry, store, or know NATS and Postgres"},
		{"internal/admin/access", true, []string{"flexworker/internal/consumer", "flexworker/internal/database", "flexworker/internal/flex", "database/sql", "github.com/jackc", "os"}, "it knows credentials, and nothing of what they are for"},
		{"internal/doctor", false, []string{"flexworker/cmd", "flexworker/internal/admin", "flexworker/internal/senders", "github.com/spf13", "github.com/kelseyhightower/envconfig"}, "it asks servers, and knows neither flags nor the environment"},
		{"internal/senders", true, []string{"flexworker/internal/consumer", "flexworker/internal/database", "flexworker/internal/flex", "database/sql", "net/http", "os", "github.com/jackc", "github.com/prometheus"}, "it translates a message into a call of the desk; what a sender may, and every statement, is the desk's"},
		{"internal/outbox", false, []string{"flexworker/internal/senders"}, journey},
		{"internal/admin/api", true, []string{"flexworker/internal/consumer", "flexworker/internal/admin/page", "database/sql", "github.com/jackc", "os"}, "each route is a translation of one call of the Desk: it has neither SQL nor a rule of the domain"},
		{"internal/batch", false, []string{"flexworker", "github.com", "net/http"}, "it gathers calls, whatever they are for"},
		{"internal/rawjson", false, []string{"flexworker", "github.com", "net/http"}, "it works on text alone"},
		{"migrations", false, []string{"flexworker/cmd", "flexworker/internal/consumer", "flexworker/internal/outbox", "flexworker/internal/flex"}, "it holds the schema and none of the worker's queries"},
		{"internal/database", true, []string{"flexworker", "net/http", "database/sql"}, "it opens sessions, whatever is asked in them"},
		{"internal/testing/flextest", false, []string{"flexworker", "github.com/nats-io", "github.com/jackc"}, "the outside world knows nothing of the worker"},
		{"internal/testing/natstest", false, []string{"flexworker/internal/consumer", "flexworker/internal/outbox", "flexworker/internal/flex"}, "the outside world knows nothing of the worker"},
		{"internal/testing/pgtest", false, []string{"flexworker/internal/outbox", "flexworker/internal/consumer", "flexworker/internal/flex", "flexworker/migrations"}, "the outside world knows nothing of the worker"},
		{"cmd/demo", false, []string{"flexworker/internal/consumer", "flexworker/internal/outbox", "flexworker/internal/flex", "flexworker/migrations"}, "it sees what an outsider sees"},
		{"cmd/endpoint", false, []string{"flexworker/internal/consumer", "flexworker/internal/outbox", "flexworker/internal/flex", "flexworker/migrations"}, "it is the outside world"},
	} {
		own := "flexworker/" + r.pkg
		for _, imported := range imports(t, own, r.direct) {
			for _, forbidden := range r.forbids {
				if imported != own && covers(imported, forbidden) {
					t.Errorf("%s imports %s: %s", r.pkg, imported, r.why)
				}
			}
		}
	}
}

// covers says whether a package is the forbidden one or stands below it. What stands in for the world
// outside may know others of its kind.
func covers(imported, forbidden string) bool {
	if imported == forbidden {
		return true
	}
	return strings.HasPrefix(imported, forbidden+"/") && (forbidden != "flexworker" || !strings.HasPrefix(imported, "flexworker/internal/testing/"))
}

func imports(t *testing.T, pkg string, direct bool) []string {
	t.Helper()
	args := []string{"list", "-deps", pkg}
	if direct {
		args = []string{"list", "-f", `{{join .Imports "\n"}}`, pkg}
	}
	out, err := exec.Command("go", args...).Output()
	if err != nil {
		t.Fatalf("go %s: %v", strings.Join(args, " "), err)
	}
	return strings.Fields(string(out))
}

// TestTestingStaysOutside: the packages under internal/testing are for tests, and for the four programs that play the world
// outside. No other package links one of them.
func TestTestingStaysOutside(t *testing.T) {
	t.Parallel()
	const fakes = "flexworker/internal/testing"
	out, err := exec.Command("go", "list", "-f", `{{$p := .ImportPath}}{{range .Imports}}{{$p}} {{.}}{{"\n"}}{{end}}`, "flexworker/...").Output()
	if err != nil {
		t.Fatal(err)
	}
	seen := false
	for line := range strings.Lines(string(out)) {
		pkg, imported, _ := strings.Cut(strings.TrimSpace(line), " ")
		if !covers(imported, fakes) {
			continue
		}
		seen = true
		programs := []string{"flexworker/cmd/bench", "flexworker/cmd/demo", "flexworker/cmd/endpoint", "flexworker/cmd/soak"}
		if !covers(pkg, fakes) && !slices.Contains(programs, pkg) {
			t.Errorf("%s imports %s, which is for tests and for %s", pkg, imported, strings.Join(programs, ", "))
		}
	}
	if !seen {
		t.Error("go list named no import of " + fakes)
	}
}

// TestImportsWithinOutbox holds what the parts of the outbox know of each other: whoever decides knows no
// table, and no part knows the outbox that joins them.
func TestImportsWithinOutbox(t *testing.T) {
	t.Parallel()
	const own = "flexworker/internal/"
	for part, may := range map[string][]string{
		"request":  {"flex", "rawjson"},
		"gate":     {"database", "flex", "loop", "outbox/request", "rawjson", "trouble"},
		"limiter":  {"flex", "loop"},
		"attempt":  {"batch", "crash", "database", "flex", "outbox/gate", "outbox/request", "outbox/results", "trouble"},
		"results":  {"batch", "crash", "database", "flex", "loop", "outbox/gate", "outbox/request", "rawjson", "trouble"},
		"lookup":   {"crash", "database", "flex", "loop", "outbox/gate", "outbox/request", "outbox/results", "rawjson", "trouble"},
		"setup":    {"batch", "crash", "database", "flex", "loop", "outbox/gate", "outbox/request", "rawjson", "trouble"},
		"upkeep":   {"crash", "database", "loop", "outbox/gate", "outbox/lookup", "outbox/request", "outbox/results", "trouble"},
		"operator": {"crash", "database", "flex", "loop", "outbox/gate", "outbox/lookup", "outbox/request", "outbox/results", "rawjson", "terminal"},
	} {
		for _, imported := range imports(t, own+"outbox/"+part, true) {
			if name, ours := strings.CutPrefix(imported, own); ours && !slices.Contains(may, name) {
				t.Errorf("outbox/%s imports %s; of our own packages it may know %q", part, name, may)
			}
			stream, database := strings.Contains(imported, "nats-io"), strings.Contains(imported, "jackc")
			if stream && part != "results" && part != "operator" || database && (part == "request" || part == "limiter") {
				t.Errorf("outbox/%s imports %s: only results and the audit know a stream, and request and limiter know no table", part, imported)
			}
		}
	}
}
