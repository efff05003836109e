#!/usr/bin/env bash
# The rules and their tests, and every query of the dashboard, by promtool, pinned in tools/promtool/go.mod. The tag leaves out
# the clients of all clouds in which Prometheus finds its targets: without them promtool compiles in a third of the time.
set -euo pipefail
cd "$(dirname "$0")/../deploy/prometheus"

promtool() { GOFLAGS="${GOFLAGS:-} -tags=remove_all_sd" go tool -modfile=../../tools/promtool/go.mod promtool "$@"; }

promtool check rules --lint=all --lint-fatal alerts.yaml
promtool test rules alerts_test.yaml outages_test.yaml

# The dashboard's queries become rules that nobody evaluates, so that promtool reads them.
queries=$(mktemp)
trap 'rm -f "$queries"' EXIT
{
	echo 'groups: [{name: dashboard, rules: ['
	sed -n 's/^ *"expr": "\(.*\)",\{0,1\}$/\1/p' dashboard.json | sed 's/\\"/"/g; s/\$__rate_interval/5m/g; s/\$job/any/g' |
		awk '{ printf "{record: \"dashboard:query:%d\", expr: '\''%s'\''},\n", NR, $0 }'
	echo ']}]'
} >"$queries"
promtool check rules "$queries"
