#!/bin/sh
# Runs every fuzz target of the module for the time given, one after the other: go fuzzes one at a time. Stops at the
# first failure, whose input go has then written to testdata/fuzz: commit it with the repair.
set -eu
time=${1:-30s}
found=0
packages=$(go list ./...)
for package in $packages; do
	# A package without tests lists nothing; one that does not compile fails here.
	targets=$(go test -list '^Fuzz' "$package")
	for target in $(echo "$targets" | grep '^Fuzz' || true); do
		echo "== $package $target, $time"
		go test -run '^$' -fuzz "^$target\$" -fuzztime "$time" "$package"
		found=$((found + 1))
	done
done
echo "fuzz: $found targets, nothing found"
