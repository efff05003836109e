#!/bin/sh
# govulncheck, pinned in tools/go.mod. It asks vuln.go.dev; where that cannot be reached nothing is known, and this says so
# and does not fail. A vulnerability that is found fails.
set -eu
if out=$(go tool -modfile=tools/go.mod govulncheck ./... 2>&1); then
	echo "$out"
	exit 0
else
	status=$?
fi
echo "$out"
case $out in
*"govulncheck: fetching vulnerabilities:"*)
	echo "vuln: the vulnerability database cannot be reached; NOTHING WAS CHECKED"
	exit 0
	;;
esac
exit $status
