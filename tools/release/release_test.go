// Package release holds the tools of a release, in a module of their own, and checks .goreleaser.yaml without compiling GoReleaser.
package release

import (
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/goreleaser/goreleaser/v2/pkg/config"
)

// TestConfiguration: GoReleaser reads the file, every key of it, and it asks for what a release has.
func TestConfiguration(t *testing.T) {
	project, err := config.Load("../../.goreleaser.yaml")
	if err != nil {
		t.Fatal(err)
	}
	build := project.Builds[0]
	if len(project.Builds) != 1 || build.Main != "./cmd/worker" || !slices.Equal(build.Env, []string{"CGO_ENABLED=0"}) || !slices.Contains(build.Flags, "-trimpath") ||
		!slices.Equal(build.Goos, []string{"linux", "darwin"}) || !slices.Equal(build.Goarch, []string{"amd64", "arm64"}) {
		t.Errorf("builds %+v", build)
	}
	for _, variable := range []string{"version", "commit", "date"} {
		if !regexp.MustCompile(`-X main\.` + variable + `={{ \.\w+ }}`).MatchString(strings.Join(build.Ldflags, " ")) {
			t.Errorf("no %s: %q", variable, build.Ldflags)
		}
	}
	if len(project.SBOMs) != 1 || project.SBOMs[0].Artifacts != "binary" {
		t.Errorf("bills of materials %+v", project.SBOMs)
	}
	const chart = "bin/{{ .ProjectName }}-{{ .Version }}.tgz"
	if sums, files := project.Checksum, project.Release.ExtraFiles; len(sums.ExtraFiles) != 1 || sums.ExtraFiles[0].Glob != chart || len(files) != 1 || files[0].Glob != chart {
		t.Errorf("the chart is in %+v and %+v", sums.ExtraFiles, files)
	}
	if images := project.DockersV2; len(images) != 1 || images[0].Dockerfile != "Dockerfile.release" || !slices.Equal(images[0].Platforms, []string{"linux/amd64", "linux/arm64"}) {
		t.Errorf("images %+v", images)
	}
}
