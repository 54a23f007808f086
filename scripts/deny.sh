#!/usr/bin/env bash
# Bans, licences and sources of all dependencies. Advisories need a download of their own and are not part of a check
# that has to give the same answer twice.
set -euo pipefail
cd "$(dirname "$0")/.."

if ! command -v cargo-deny >/dev/null; then
  echo "skipped: cargo deny (not installed)"
  exit 0
fi
exec cargo deny check bans licenses sources
