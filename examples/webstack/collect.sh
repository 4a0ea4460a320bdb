#!/bin/sh
# Makes a folder of a program of this machine and of the libraries that it
# needs: all that a container has to hold.
#   ./collect.sh /usr/bin/redis-server build/redis
# A third word names another root than / in which the program lies.
set -eu
program=$1 out=$2 root=${3:-/}
inside() { if [ "$root" = / ]; then "$@"; else chroot "$root" "$@"; fi; }
if ! [ -x "$root/$program" ]; then
	echo "collect.sh: $program is not there: install its package first" >&2
	exit 1
fi
rm -rf "$out"
mkdir -p "$out"
for f in "$program" $(inside ldd "$program" | grep -o '/[^ ]*'); do
	mkdir -p "$out$(dirname "$f")"
	cp -L "$root/$f" "$out$f"
done
