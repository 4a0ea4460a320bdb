#!/bin/sh
# Fail if two pieces of code outside of tests have the same syntax for 100 tokens or more.
set -eu
found=$(git ls-files '*.go' | grep -v -e '_test\.go$' -e '^tools/' | go tool -modfile=tools/go.mod dupl -files -plumbing -t 100)
[ -z "$found" ] || { echo "$found"; exit 1; }
