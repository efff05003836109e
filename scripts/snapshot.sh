#!/usr/bin/env bash
# A release by GoReleaser that publishes nothing, into dist. Images need Docker's engine with buildx; where there is none they are left out.
set -euo pipefail
cd "$(dirname "$0")/.."

skip=()
if ! docker info >/dev/null 2>&1 || ! docker buildx version >/dev/null 2>&1; then
	skip=(--skip=docker)
	echo "snapshot: no Docker engine with buildx answers: NO IMAGES ARE BUILT"
fi
go tool -modfile=tools/release/go.mod goreleaser release --snapshot --clean "${skip[@]}"
ls -l dist/*.tar.gz dist/*.cdx.json dist/checksums.txt bin/*.tgz
