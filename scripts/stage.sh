#!/usr/bin/env bash
# stage.sh NAME COMMAND…: runs the command, then says how the stage went and how long it took; its exit code is kept.
set -uo pipefail

name=$1
shift
SECONDS=0
echo "== $name"
"$@"
code=$?
if ((code == 0)); then
  echo "== $name: ok, ${SECONDS} s"
else
  echo "== $name: FAILED with $code, ${SECONDS} s"
fi
exit "$code"
