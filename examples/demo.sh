#!/bin/sh
# Shows defx at work on the quickstart, in a folder of its own that is removed afterwards.
set -eu
defx=$(cd "$(dirname "$1")" && pwd)/$(basename "$1")
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d "${TMPDIR:-/tmp}/defx-demo.XXXXXX")
trap 'rm -rf "$work"' EXIT INT TERM
cp -R "$here/quickstart/." "$work"
cd "$work"
say() { printf '\n# %s\n' "$1"; }
run() { printf '$ %s\n' "$*"; shift; "$defx" "$@"; }

say 'Three libraries, five services; box is a folder that stands for a machine.'
run defx apply --yes
say 'Once more: nothing to do.'
run defx apply --yes
say 'One field of one service changes ...'
sed -i.bak "s/^        LOG: 'info',$/        LOG: 'debug',/" shop/functionalities.libsonnet
rm shop/functionalities.libsonnet.bak
run defx plan
say '... and exactly that service is deployed.'
run defx apply --yes
say 'What stands, and where it came from.'
run defx status
run defx history
say 'The machine holds units that systemd reads as they are:'
ls box/etc/systemd/system
