#!/bin/sh
# Fail if a function is reachable neither from the program nor from a test.
set -eu
found=$(go tool -modfile=tools/go.mod deadcode -test ./...)
[ -z "$found" ] || { echo "$found"; exit 1; }
