package main

import (
	"encoding/json"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// rulesFolder is where the rules, their tests and the dashboard are.
const rulesFolder = "../../deploy/prometheus/"

// alert is a rule of alerts.yaml.
type alert struct {
	Alert, Expr         string
	Labels, Annotations map[string]string
}

// promtool is a test of promtool, as far as it is looked at here.
type promtool struct {
	Name        string
	InputSeries []struct{ Series string } `yaml:"input_series"`
	Alerts      []struct {
		Alertname string
		Expected  []any `yaml:"exp_alerts"`
	} `yaml:"alert_rule_test"`
	Queries []struct {
		Expr     string
		Expected []struct{ Labels string } `yaml:"exp_samples"`
	} `yaml:"promql_expr_test"`
}

func readYAML[T any](t *testing.T, file string) (content T) {
	t.Helper()
	text, err := os.ReadFile(rulesFolder + file)
	if err == nil {
		err = yaml.Unmarshal(text, &content)
	}
	if err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	return content
}

func readAlerts(t *testing.T) (alerts []alert) {
	t.Helper()
	file := readYAML[struct{ Groups []struct{ Rules []alert } }](t, "alerts.yaml")
	for _, group := range file.Groups {
		alerts = append(alerts, group.Rules...)
	}
	if len(alerts) == 0 {
		t.Fatal("there is no alert")
	}
	return alerts
}

func readTests(t *testing.T, file string) []promtool {
	t.Helper()
	tests := readYAML[struct{ Tests []promtool }](t, file).Tests
	if len(tests) == 0 {
		t.Fatalf("%s has no test", file)
	}
	return tests
}

var (
	ownMetric   = regexp.MustCompile(`flexworker_[a-z_]+`)
	rawMetric   = regexp.MustCompile(`\b(?:flexworker_[a-z_]+|process_start_time_seconds|up)\b`)
	ofHistogram = regexp.MustCompile(`_(bucket|sum|count)$`)
)

// unexported are the metrics in a query that no worker exports.
func unexported(query string, exported map[string]bool) (names []string) {
	for _, name := range ownMetric.FindAllString(query, -1) {
		if !exported[name] && !exported[ofHistogram.ReplaceAllString(name, "")] {
			names = append(names, name)
		}
	}
	return names
}

// TestAlerts: every alert says how bad it is, what it means and where to read on, which is an entry of the runbook. The
// runbook has no other entry, and every metric that a rule reads is exported.
func TestAlerts(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../docs/operating.md")
	if err != nil {
		t.Fatal(err)
	}
	_, runbook, _ := strings.Cut(string(page), "\n## Alerts\n")
	runbook, _, _ = strings.Cut(runbook, "\n## ")
	entries := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^### (\w+)$`).FindAllStringSubmatch(runbook, -1) {
		entries[m[1]] = false
	}
	exported := exportedMetrics()
	for _, a := range readAlerts(t) {
		if _, ok := entries[a.Alert]; !ok {
			t.Errorf("the runbook in docs/operating.md has no entry ### %s", a.Alert)
		}
		entries[a.Alert] = true
		if want := "docs/operating.md#" + strings.ToLower(a.Alert); a.Annotations["runbook_url"] != want {
			t.Errorf("%s: runbook_url %q, want %q", a.Alert, a.Annotations["runbook_url"], want)
		}
		if a.Annotations["summary"] == "" || a.Annotations["description"] == "" || !slices.Contains([]string{"critical", "warning"}, a.Labels["severity"]) {
			t.Errorf("%s: no summary, description or severity", a.Alert)
		}
		if missing := unexported(a.Expr, exported); len(missing) > 0 {
			t.Errorf("%s reads what is not exported: %q", a.Alert, missing)
		}
	}
	for name, known := range entries {
		if !known {
			t.Errorf("the runbook has an entry %s, and there is no such alert", name)
		}
	}
}

// TestAlertsAreTried: promtool sees every alert fire and sees it silent.
func TestAlertsAreTried(t *testing.T) {
	t.Parallel()
	silent, firing := map[string]bool{}, map[string]bool{}
	for _, tried := range readTests(t, "alerts_test.yaml") {
		for _, check := range tried.Alerts {
			if len(check.Expected) == 0 {
				silent[check.Alertname] = true
			} else {
				firing[check.Alertname] = true
			}
		}
	}
	for _, a := range readAlerts(t) {
		if !silent[a.Alert] || !firing[a.Alert] {
			t.Errorf("%s: silent in a test: %v, firing in one: %v", a.Alert, silent[a.Alert], firing[a.Alert])
		}
	}
}

// TestOutagesArePlayed: promtool plays the twelve outages that docs/faults.md lists. The page names the alerts that fire. Each
// test has every metric that a rule reads, so that no alert is silent for want of a series.
func TestOutagesArePlayed(t *testing.T) {
	t.Parallel()
	read := map[string]bool{}
	alerts := map[string]bool{}
	for _, a := range readAlerts(t) {
		alerts[a.Alert] = true
		for _, name := range rawMetric.FindAllString(a.Expr, -1) {
			read[name] = true
		}
	}
	listed := map[string][]string{} // alerts by outage
	for _, row := range tableRows(t, "docs/faults.md") {
		if cells := strings.Split(row, "|"); len(cells) == 5 && strings.HasPrefix(cells[1], " `") {
			for _, word := range regexp.MustCompile(`\w+`).FindAllString(cells[3], -1) {
				if alerts[word] {
					outage := strings.Split(cells[1], "`")[1]
					listed[outage] = append(listed[outage], word)
				}
			}
		}
	}
	if len(listed) != 12 {
		t.Errorf("docs/faults.md lists %d outages: %v", len(listed), slices.Sorted(maps.Keys(listed)))
	}
	for _, played := range readTests(t, "outages_test.yaml") {
		missing := maps.Clone(read)
		for _, s := range played.InputSeries {
			delete(missing, rawMetric.FindString(s.Series))
		}
		if len(missing) > 0 {
			t.Errorf("%s: without %v", played.Name, slices.Sorted(maps.Keys(missing)))
		}
		fired := map[string]bool{}
		for _, check := range played.Queries {
			if check.Expr != `group by (alertname) (ALERTS{alertstate="firing"})` {
				t.Errorf("%s asks for something else than all alerts that fire: %s", played.Name, check.Expr)
			}
			for _, sample := range check.Expected {
				fired[strings.Split(sample.Labels, `"`)[1]] = true
			}
		}
		if last := played.Queries[len(played.Queries)-1]; len(last.Expected) > 0 {
			t.Errorf("%s does not end", played.Name)
		}
		slices.Sort(listed[played.Name])
		if got := slices.Sorted(maps.Keys(fired)); !slices.Equal(got, listed[played.Name]) {
			t.Errorf("%s: %v fire, and docs/faults.md lists %v", played.Name, got, listed[played.Name])
		}
		delete(listed, played.Name)
	}
	if len(listed) > 0 {
		t.Errorf("listed in docs/faults.md and not played: %v", listed)
	}
}

// TestDashboard: every metric stands on a panel, every panel reads what is exported, from the data source that is chosen.
func TestDashboard(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(rulesFolder + "dashboard.json")
	if err != nil {
		t.Fatal(err)
	}
	type source struct{ UID string }
	var dashboard struct {
		Templating struct{ List []struct{ Name, Type string } }
		Panels     []struct {
			ID                       int
			Type, Title, Description string
			Datasource               source
			Targets                  []struct {
				Expr       string
				Datasource source
			}
		}
	}
	if err := json.Unmarshal(text, &dashboard); err != nil {
		t.Fatal(err)
	}
	if list := dashboard.Templating.List; len(list) == 0 || list[0].Name != "datasource" || list[0].Type != "datasource" {
		t.Errorf("the first variable is not the data source: %v", list)
	}
	exported := exportedMetrics()
	shown, ids := map[string]bool{}, map[int]bool{}
	for _, panel := range dashboard.Panels {
		if ids[panel.ID] {
			t.Errorf("%s: the id %d is used twice", panel.Title, panel.ID)
		}
		ids[panel.ID] = true
		if panel.Type == "row" {
			continue
		}
		if panel.Title == "" || panel.Description == "" || panel.Datasource.UID != "${datasource}" || len(panel.Targets) == 0 {
			t.Errorf("panel %d %q has no title, description, query or the data source", panel.ID, panel.Title)
		}
		for _, target := range panel.Targets {
			if target.Datasource.UID != "${datasource}" || !strings.Contains(target.Expr, `job=~"$job"`) {
				t.Errorf("%s asks another data source, or all fleets: %s", panel.Title, target.Expr)
			}
			if missing := unexported(target.Expr, exported); len(missing) > 0 {
				t.Errorf("%s reads what is not exported: %q", panel.Title, missing)
			}
			for _, name := range ownMetric.FindAllString(target.Expr, -1) {
				shown[ofHistogram.ReplaceAllString(name, "")] = true
			}
		}
	}
	for name := range exported {
		if !shown[name] {
			t.Errorf("%s stands on no panel of the dashboard", name)
		}
	}
}

// TestPlayedSeriesAreExported: what promtool is given is what a worker exports, by name, labels and values of labels.
func TestPlayedSeriesAreExported(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	cfg := r.unhurried()
	cfg.Confirm = true
	r.start(cfg)
	r.says(cfg.AdminAddr, "ok", 200)
	r.send("p", 0, 1) // of a histogram nothing is exported before
	r.shows(cfg.AdminAddr, map[string]any{`flexworker_due_to_settled_seconds_count{outcome="created"}`: 1, `flexworker_requests_for_person`: 0, `flexworker_settings_differ`: 0})
	text, err := scrape(cfg.AdminAddr)
	if err != nil {
		t.Fatal(err)
	}
	label := regexp.MustCompile(`\w+="[^"]*"`)
	exported := map[string][][]string{} // labels by name
	for line := range strings.Lines(text) {
		if name := rawMetric.FindString(line); name != "" && strings.HasPrefix(line, name) {
			exported[name] = append(exported[name], label.FindAllString(line, -1))
		}
	}
	played := 0
	for _, file := range []string{"alerts_test.yaml", "outages_test.yaml"} {
		for _, tried := range readTests(t, file) {
			for _, s := range tried.InputSeries {
				name := rawMetric.FindString(s.Series)
				if name == "up" { // Prometheus's own
					continue
				}
				played++
				wanted := slices.DeleteFunc(label.FindAllString(s.Series, -1), func(l string) bool { return regexp.MustCompile(`^(job|instance|version)=`).MatchString(l) })
				if !slices.ContainsFunc(exported[name], func(has []string) bool {
					return !slices.ContainsFunc(wanted, func(l string) bool { return !slices.Contains(has, l) })
				}) {
					t.Errorf("%s, %s: no worker exports %s", file, tried.Name, s.Series)
				}
			}
		}
	}
	if played == 0 {
		t.Error("nothing is played")
	}
}
