// Command package writes the package of the chart of a release: `go run ./package VERSION DIRECTORY` in tools/chart. The
// version is that of the chart and of the program in it.
package main

import (
	"fmt"
	"os"
	"strings"

	"helm.sh/helm/v4/pkg/chart/v2/loader"
	"helm.sh/helm/v4/pkg/chart/v2/util"
)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: package VERSION DIRECTORY")
		os.Exit(2)
	}
	path, err := pack(strings.TrimPrefix(os.Args[1], "v"), os.Args[2])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println(path)
}

func pack(version, directory string) (string, error) {
	c, err := loader.Load("../../deploy/helm/flexworker")
	if err != nil {
		return "", err
	}
	c.Metadata.Version, c.Metadata.AppVersion = version, version
	if err := c.Validate(); err != nil { // a version that is not semantic
		return "", err
	}
	if err := os.MkdirAll(directory, 0o755); err != nil {
		return "", err
	}
	return util.Save(c, directory)
}
