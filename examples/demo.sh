#!/bin/sh
# Runs defx on a temporary copy of the quickstart example.
set -eu
defx=$(cd "$(dirname "$1")" && pwd)/$(basename "$1")
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d "${TMPDIR:-/tmp}/defx-demo.XXXXXX")
trap 'rm -rf "$work"' EXIT INT TERM
cp -R "$here/quickstart/." "$work"
cd "$work"
say() { printf '\n# %s\n' "$1"; }
run() { printf '$ %s\n' "$*"; shift; "$defx" "$@"; }

say 'Three libraries, five services. The machine is the folder box.'
run defx apply --yes
say 'A second apply changes nothing.'
run defx apply --yes
say 'Edit one field of one service ...'
sed -i.bak "s/^        LOG: 'info',$/        LOG: 'debug',/" shop/functionalities.libsonnet
rm shop/functionalities.libsonnet.bak
run defx plan
say '... and only that service is deployed.'
run defx apply --yes
say 'Show what is deployed and when it changed.'
run defx status
run defx history
say 'The unit files on the machine, ready for systemd:'
ls box/etc/systemd/system
