#!/bin/sh
# Copies a program of this machine, and the shared libraries that it needs, to a
# folder: everything that a container needs to run it.
#   ./collect.sh /usr/bin/redis-server build/redis
# An optional third argument is the root folder of the program (default /).
set -eu
program=$1 out=$2 root=${3:-/}
inside() { if [ "$root" = / ]; then "$@"; else chroot "$root" "$@"; fi; }
if ! [ -x "$root/$program" ]; then
	echo "collect.sh: $program does not exist: install its package first" >&2
	exit 1
fi
rm -rf "$out"
mkdir -p "$out"
for f in "$program" $(inside ldd "$program" | grep -o '/[^ ]*'); do
	mkdir -p "$out$(dirname "$f")"
	cp -L "$root/$f" "$out$f"
done
