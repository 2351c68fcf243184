#!/bin/sh
# Checks and times compiled models on the GPU at hand. Needs python3 with torch, and for each model.ultra its model.json beside it:
#
#     tests-gpu/run.sh model.ultra [another.ultra ...] [-- options of run.py]
set -e
here=$(dirname "$0")
files=
while [ $# -gt 0 ] && [ "$1" != -- ]; do files="$files $1"; shift; done
[ "$1" = -- ] && shift
[ -n "$files" ] || { echo "usage: tests-gpu/run.sh model.ultra ... [-- options]" >&2; exit 2; }
for file in $files; do python3 "$here/run.py" "$file" "${file%.ultra}.json" "$@"; done
