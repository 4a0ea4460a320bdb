#!/bin/sh
# Runs every fuzzer of the project for the time (10s) or the number of inputs (1000x) given, one after the other.
set -eu
time=${1:-10s}
go list ./... | while read -r pkg; do
	dir=$(go list -f '{{.Dir}}' "$pkg")
	grep -ho '^func Fuzz[A-Za-z0-9_]*' "$dir"/*_test.go 2>/dev/null | sed 's/^func //' | sort | while read -r f; do
		echo "fuzz $pkg $f for $time"
		go test -run '^$' -fuzz "^$f\$" -fuzztime "$time" "$pkg"
	done
done
