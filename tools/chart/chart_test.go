package chart

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"helm.sh/helm/v4/pkg/chart/common"
	helm "helm.sh/helm/v4/pkg/chart/v2"
	"helm.sh/helm/v4/pkg/chart/v2/lint"
	"helm.sh/helm/v4/pkg/chart/v2/lint/support"

	"github.com/yannh/kubeconform/pkg/validator"
)

// faultsOf is all that is wrong with what a set of values makes of the chart.
func faultsOf(chart *helm.Chart, values common.Values, schemas validator.Validator) error {
	r, err := render(chart, values)
	if err != nil {
		return err
	}
	faults := []error{validate(schemas, r)}
	for _, rule := range rules {
		if problem := rule.broken(r); problem != "" {
			faults = append(faults, fmt.Errorf("rule: %s: %s", rule.name, problem))
		}
	}
	return errors.Join(faults...)
}

func TestChart(t *testing.T) {
	chart, schemas := load(t), newSchemas(t)
	for _, set := range sets {
		t.Run(set, func(t *testing.T) {
			if err := faultsOf(chart, valuesOf(t, set), schemas); err != nil {
				t.Error(err)
			}
			for _, m := range lint.RunAll(chartDir, valuesOf(t, set), namespace).Messages {
				if m.Severity >= support.WarningSev {
					t.Error(m)
				}
			}
		})
	}
	files, err := filepath.Glob(filepath.Join(chartDir, "ci", "*.yaml"))
	if err != nil || len(files) != len(sets) {
		t.Errorf("%d files of values, %d sets, %v", len(files), len(sets), err)
	}
}

// TestDefaults: without values the chart says what is missing, in place of a worker that does not start.
func TestDefaults(t *testing.T) {
	_, err := render(load(t), common.Values{})
	if err == nil || !strings.Contains(err.Error(), "TWILIO_ACCOUNT_SID") || !strings.Contains(err.Error(), "TWILIO_API_KEY") {
		t.Error(err)
	}
}

// TestSetRefused: what is no value, no setting, or no value of that setting is refused by the schema, and named.
func TestSetRefused(t *testing.T) {
	chart := load(t)
	for _, tt := range []struct{ values, names string }{
		{`{replicaCount: 3}`, "replicaCount"},
		{`{settings: {FLEX_RAET: 3}}`, "FLEX_RAET"},
		{`{settings: {FLEX_RATE: fast}}`, "FLEX_RATE"},
		{`{settings: {FLEX_TIMEOUT: 15}}`, "FLEX_TIMEOUT"},
		{`{settings: {UNCERTAIN_POLICY: guess}}`, "UNCERTAIN_POLICY"},
		{`{settings: {SHUTDOWN_GRACE: 30}}`, "SHUTDOWN_GRACE"},
		{`{settings: {SHUTDOWN_GRACE: 1.5m}}`, "SHUTDOWN_GRACE"},
		{`{settings: {ADMIN_ADDR: ""}}`, "ADMIN_ADDR"},
		{`{settings: {DATABASE_URL: "postgres://u:p@db/x"}}`, "DATABASE_URL"},
		{`{settings: {TWILIO_AUTH_TOKEN: secret}}`, "TWILIO_AUTH_TOKEN"},
		{`{settings: {TWILIO_ACCOUNT_SID: 0123456789abcdef}}`, "TWILIO_ACCOUNT_SID"},
		{`{settings: {TWILIO_API_KEY: SKx}, secrets: {TWILIO_API_SECRET_FILE: {secret: a, key: b}}}`, "oneOf"},
		{`{secrets: {ADMIN_READ_TOKEN_FILE: {secret: a, key: b}}}`, "ADMIN_TOKEN_FILE"},
		{`{secrets: {DATABASE_URL: {secret: a, key: b}}}`, "DATABASE_URL"},
		{`{extraEnv: [{name: FLEX_RATE, value: "3"}]}`, "extraEnv"},
		{`{keda: {minReplicas: 0}}`, "minReplicas"},
		{`{ingress: {enabled: true}}`, "host"},
	} {
		values := valuesOf(t, "minimal")
		other, err := common.ReadValues([]byte(tt.values))
		if err != nil {
			t.Fatal(err)
		}
		merge(values, other)
		if _, err := render(chart, values); err == nil || !strings.Contains(err.Error(), tt.names) {
			t.Errorf("%s: %v", tt.values, err)
		}
	}
}

func merge(into, from map[string]any) {
	for key, value := range from {
		under, both := into[key].(map[string]any)
		if more, ok := value.(map[string]any); ok && both {
			merge(under, more)
			continue
		}
		into[key] = value
	}
}

// TestFaults: a chart that is broken on purpose is found, and by which check.
func TestFaults(t *testing.T) {
	schemas := newSchemas(t)
	for _, tt := range []struct{ name, set, file, old, new, found string }{
		{"a secret by subPath", "minimal", "deployment", "mountPath: /run/secrets\n", "mountPath: /run/secrets\n              subPath: twilio_auth_token\n", "rule: secrets are a directory"},
		{"a secret in the environment", "minimal", "deployment", "          env:\n", "          env:\n            - {name: TWILIO_AUTH_TOKEN, valueFrom: {secretKeyRef: {name: flexworker, key: twilio-auth-token}}}\n", "rule: secrets are files"},
		{"no liveness probe", "minimal", "deployment", "livenessProbe:", "lifecycle:", "decode: deployment.yaml"},
		{"liveness asks servers", "minimal", "deployment", "livenessProbe:\n            httpGet: {path: /healthz", "livenessProbe:\n            httpGet: {path: /readyz", "rule: probes"},
		{"a field of another name", "minimal", "deployment", "readOnly: true", "readonly: true", "decode: deployment.yaml"},
		{"a field twice", "minimal", "deployment", "minReadySeconds: 5", "minReadySeconds: 5\n  minReadySeconds: 6", "decode: deployment.yaml"},
		{"a field that is required is missing", "minimal", "deployment", "        - name: worker\n          image:", "        - image:", "schema: flexworker"},
		{"a word that is none", "minimal", "deployment", "whenUnsatisfiable: ScheduleAnyway", "whenUnsatisfiable: Always", "rule: spread"},
		{"root", "minimal", "_helpers", "runAsUser: 65532", "runAsUser: 0", "rule: no privileges"},
		{"a root that can be written", "minimal", "_helpers", "readOnlyRootFilesystem: true", "readOnlyRootFilesystem: false", "rule: no privileges"},
		{"capabilities", "minimal", "_helpers", "drop: [ALL]", "drop: [NET_RAW]", "rule: no privileges"},
		{"no seccomp", "minimal", "_helpers", "RuntimeDefault", "Unconfined", "rule: no privileges"},
		{"the token of the service account", "minimal", "deployment", "automountServiceAccountToken: false", "automountServiceAccountToken: true", "rule: no service-account token"},
		{"a grace of the default", "apikey", "deployment", "terminationGracePeriodSeconds: {{ add", "terminationGracePeriodSeconds: 30 #{{ add", "rule: grace"},
		{"a grace that does not count minutes", "apikey", "_helpers", `"m" 60`, `"m" 0`, "rule: grace"},
		{"preStop", "minimal", "deployment", "          ports:\n", "          lifecycle: {preStop: {sleep: {seconds: 5}}}\n          ports:\n", "rule: grace"},
		{"all replicas may go", "minimal", "poddisruptionbudget", "maxUnavailable: 1", "maxUnavailable: 100%", "rule: disruptions"},
		{"the budget of other pods", "minimal", "poddisruptionbudget", `include "flexworker.workers" . | nindent 6`, `include "flexworker.migration" . | nindent 6`, "rule: disruptions"},
		{"one host", "minimal", "deployment", "topologyKey: kubernetes.io/hostname", "topologyKey: topology.kubernetes.io/zone", "rule: spread"},
		{"one replica", "minimal", "deployment", "replicas: {{ .Values.replicas }}", "replicas: 1", "rule: two replicas"},
		{"an update that takes one away first", "minimal", "deployment", "maxSurge: 1, maxUnavailable: 0", "maxSurge: 0, maxUnavailable: 1", "rule: update"},
		{"workers that migrate", "minimal", "deployment", "{{- range $name, $value := .Values.settings }}", "{{- range $name, $value := omit .Values.settings \"MIGRATE\" }}", "rule: migration"},
		{"a migration with the worker's address", "minimal", "migrate", ".Values.migrate.databaseURL", ".Values.secrets.DATABASE_URL_FILE", "rule: migration"},
		{"a migration after the upgrade", "minimal", "migrate", "pre-install,pre-upgrade", "post-install,post-upgrade", "rule: migration"},
		{"a policy for no pod", "narrow", "networkpolicy", `include "flexworker.workers" . | nindent 6`, `include "flexworker.migration" . | nindent 6`, "rule: network"},
		{"no DNS", "minimal", "_helpers", "port: 53,", "port: 5353,", "rule: network"},
		{"a monitor of a port that is none", "everything", "podmonitor", "- port: http", "- port: metrics", "rule: monitor"},
		{"a fleet without its name", "everything", "podmonitor", "replacement: flexworker/", "replacement: ", "rule: monitor"},
		{"other alerts", "everything", "prometheusrule", `replace "runbook_url: "`, `replace "for: 2m" "for: 9m" | replace "runbook_url: "`, "rule: alerts"},
		{"down to nothing", "everything", "scaledobject", "minReplicaCount: {{ .Values.keda.minReplicas }}", "minReplicaCount: 0", "rule: scaling"},
		{"a number where KEDA wants text", "everything", "scaledobject", `targetQueryValue: "1"`, "targetQueryValue: 1", "schema: "},
		{"two who set the number of replicas", "everything", "deployment", "{{- if not .Values.keda.enabled }}", "{{- if true }}", "rule: scaling"},
		{"a custom resource by default", "minimal", "podmonitor", "{{- if .Values.podMonitor.enabled }}", "{{- if true }}", "rule: custom resources"},
		{"an ingress to no service", "everything", "ingress", `name: {{ include "flexworker.fullname" . }}
                port:`, "name: page\n                port:", "rule: page"},
		{"a large number with an exponent", "everything", "_helpers", `{{ int64 . }}`, `{{ . }}`, "rule: settings"},
		{"another namespace", "minimal", "service", "namespace: {{ .Release.Namespace }}", "namespace: default", "rule: namespace"},
		{"a value that is none", "minimal", "service", "port: 8080", "port: {{ .Values.service.port }}", "render: "},
	} {
		t.Run(tt.name, func(t *testing.T) {
			chart := load(t)
			at := slices.IndexFunc(chart.Templates, func(f *common.File) bool {
				return strings.TrimSuffix(strings.TrimSuffix(filepath.Base(f.Name), ".yaml"), ".tpl") == tt.file
			})
			text := string(chart.Templates[at].Data)
			broken := strings.Replace(text, tt.old, tt.new, 1)
			if broken == text {
				t.Fatalf("%s has no %q to break", tt.file, tt.old)
			}
			chart.Templates[at].Data = []byte(broken)
			if err := faultsOf(chart, valuesOf(t, tt.set), schemas); err == nil || !strings.Contains(err.Error(), tt.found) {
				t.Errorf("want %q, got %v", tt.found, err)
			} else {
				t.Log(err)
			}
		})
	}
}

// TestNotes: what is printed after an install is about what was installed.
func TestNotes(t *testing.T) {
	chart := load(t)
	for set, want := range map[string][]string{
		"minimal":    {"2 replicas in voice", "exec deploy/flexworker -- /worker doctor", "The page and the API are off", "Nothing scrapes"},
		"everything": {"1 to 10 replicas", "deploy/interactions", "https://flexworker.example.com/voice"},
		"plain":      {"worker migrate up"},
	} {
		r, err := render(chart, valuesOf(t, set))
		if err != nil {
			t.Fatal(err)
		}
		for _, w := range want {
			if !strings.Contains(r.notes, w) {
				t.Errorf("%s: no %q in\n%s", set, w, r.notes)
			}
		}
	}
}

// TestDocumentedValues: the values that docs/cluster.md begins with are enough, and its table names every value.
func TestDocumentedValues(t *testing.T) {
	text, err := os.ReadFile(root + "docs/cluster.md")
	if err != nil {
		t.Fatal(err)
	}
	page := string(text)
	from := strings.Index(page, "       image: {repository")
	if from < 0 {
		t.Fatal("docs/cluster.md has no values")
	}
	block, _, _ := strings.Cut(page[from:], "\n\n")
	values, err := common.ReadValues([]byte(strings.ReplaceAll("\n"+block, "\n       ", "\n")))
	if err != nil {
		t.Fatal(err)
	}
	if err := faultsOf(load(t), values, newSchemas(t)); err != nil {
		t.Error(err)
	}
	_, table, _ := strings.Cut(page, "\n## Values\n")
	for name := range load(t).Values {
		if !strings.Contains(table, "`"+name+"`") {
			t.Errorf("docs/cluster.md does not name the value %s", name)
		}
	}
}
