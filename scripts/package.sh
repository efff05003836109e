#!/usr/bin/env bash
# What a release has, made and looked at, but for this machine alone and without GoReleaser, whose compilation takes many times as long as
# all of this: the configuration of GoReleaser, the binary, its bill of materials, the chart's package. `make snapshot` runs GoReleaser itself.
set -euo pipefail
cd "$(dirname "$0")/.."

version=0.0.0-$(git rev-parse --short=12 HEAD)
fail() { echo "package: $*" >&2; exit 1; }

go -C tools/release test ./...

make build VERSION="$version"
[[ $(bin/worker version) == "flexworker $version, commit "* ]] || fail "the binary says that it is $(bin/worker version)"

go version -m bin/worker | grep -q 'CGO_ENABLED=0' || fail "the binary is not static"

go -C tools/release build -o ../../bin/ github.com/CycloneDX/cyclonedx-gomod/cmd/cyclonedx-gomod
bin/cyclonedx-gomod bin -json -std -version "$version" -output bin/worker.cdx.json bin/worker
for module in github.com/jackc/pgx/v5 github.com/nats-io/nats.go std; do
	grep -q "\"name\": \"$module\"" bin/worker.cdx.json || fail "the bill of materials has no $module"
done

chart=$(go -C tools/chart run ./package "$version" ../../bin 2>/dev/null)
tar -xzOf "tools/chart/$chart" flexworker/Chart.yaml | grep -q "^appVersion: $version" || fail "the chart is not of this version"
tar -xzOf "tools/chart/$chart" flexworker/alerts.yaml | cmp - deploy/prometheus/alerts.yaml || fail "the chart has other alerts"

ls -l bin/worker bin/worker.cdx.json bin/flexworker-"$version".tgz
