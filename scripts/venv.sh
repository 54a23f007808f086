#!/usr/bin/env bash
# venv.sh FOLDER [REQUIREMENTS [ARGUMENT…]]: a virtual environment, made anew only when its requirements change; those of the slide
# worker unless others are named. The arguments are pip's.
set -euo pipefail
cd "$(dirname "$0")/.."

venv=$1
requirements=${2:-examples/slide-worker/requirements.txt}
# The interpreter counts too: an environment made by one that is gone doesn't run.
wanted=$(python3 --version; cat "$requirements")

if [[ -x $venv/bin/python && $(cat "$venv/made-for" 2>/dev/null) == "$wanted" ]]; then
  echo "unchanged"
  exit 0
fi
rm -rf "$venv"
python3 -m venv "$venv"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-input "${@:3}" -r "$requirements"
# Written last, so that an interrupted installation is not taken for a whole one.
echo "$wanted" >"$venv/made-for"
