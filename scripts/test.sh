#!/usr/bin/env bash
# test.sh VENV [ARGUMENT…]: the tests, told where the worker's Python and a Chromium are. Never retried: a flaky test is a bug.
set -euo pipefail
cd "$(dirname "$0")/.."

TIDINGS_TEST_PYTHON=$(cd "$1/bin" && pwd)/python
TIDINGS_TEST_CHROMIUM=$(scripts/find.sh chromium)
export TIDINGS_TEST_PYTHON TIDINGS_TEST_CHROMIUM
exec cargo test "${@:2}"
