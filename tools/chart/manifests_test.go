package chart

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"helm.sh/helm/v4/pkg/chart/common"
)

var update = flag.Bool("update", false, "write deploy/manifests anew")

const manifests = root + "deploy/manifests"

// TestManifests: the plain manifests in git are what the chart renders, in two files, as kubectl knows no hooks: the migration, which
// has to be over before the workers are changed, and all else.
func TestManifests(t *testing.T) {
	values, err := common.ReadValuesFile(filepath.Join(manifests, "values.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	r, err := render(load(t), values)
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{"migrate.yaml": "", "flexworker.yaml": ""}
	for _, d := range r.documents {
		file, text := "flexworker.yaml", plain(d.text)+"\n"
		if d.object.GetAnnotations()[hook] != "" {
			file = "migrate.yaml"
		}
		files[file] += "---\n" + text
	}
	for name, text := range files {
		text = "# Rendered from deploy/helm/flexworker with values.yaml by `make manifests`. docs/cluster.md says how to apply it.\n" + text
		path := filepath.Join(manifests, name)
		if *update {
			if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if got, err := os.ReadFile(path); err != nil || string(got) != text {
			t.Errorf("%s is not what the chart renders, %v: make manifests", path, err)
		}
	}
}

// plain is a document without what is Helm's alone, and without a namespace: kubectl has one.
func plain(text string) string {
	var lines []string
	for line := range strings.SplitSeq(text, "\n") {
		switch word, _, _ := strings.Cut(strings.TrimSpace(line), ":"); word {
		case "helm.sh/chart", "helm.sh/hook", "helm.sh/hook-weight", "helm.sh/hook-delete-policy", "app.kubernetes.io/managed-by", "namespace":
			continue
		}
		lines = append(lines, line)
	}
	kept := lines[:0]
	for i, line := range lines { // which had Helm's annotations alone
		if line == "  annotations:" && (i+1 == len(lines) || !strings.HasPrefix(lines[i+1], "    ")) {
			continue
		}
		kept = append(kept, line)
	}
	return strings.Join(kept, "\n")
}
