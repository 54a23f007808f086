#!/usr/bin/env bash
# Whatever is not Rust: it has to parse.
set -euo pipefail
cd "$(dirname "$0")/.."

bash -n scripts/*.sh .ci/run
sh -n examples/redis-cli.sh

if command -v python3 >/dev/null; then
  # Parsed, not compiled to a file: the check leaves nothing behind.
  python3 -c 'import ast, sys; [ast.parse(open(name, encoding="utf-8").read(), name) for name in sys.argv[1:]]' examples/slide-worker/worker.py scripts/manifests.py
else
  echo "skipped: the worker (no python3)"
fi

if command -v node >/dev/null; then
  # One at a time: node checks only the first of several.
  for script in tests/browser/drive.mjs examples/node-worker/worker.mjs; do node --check "$script"; done
  # Modules for browsers are called .js, which node takes for CommonJS unless it is told.
  for script in src/cli/demo/page/*.js; do node --input-type=module --check <"$script" || { echo "in $script" >&2; exit 1; }; done
else
  echo "skipped: the JavaScript (no node)"
fi
