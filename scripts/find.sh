#!/usr/bin/env bash
# find.sh chromium|postgres: prints the path of a program that really works, or fails.
set -euo pipefail

case $1 in
  chromium)
    # A snap's stub is in PATH, is executable, and can't start: only `--version` tells.
    for name in ${TIDINGS_TEST_CHROMIUM:+"$TIDINGS_TEST_CHROMIUM"} chromium google-chrome google-chrome-stable chromium-browser \
      "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome" "/Applications/Chromium.app/Contents/MacOS/Chromium"; do
      path=$(command -v "$name") || continue
      [[ $("$path" --version </dev/null 2>/dev/null || true) == *[0-9].[0-9]* ]] && echo "$path" && exit 0
    done
    ;;
  postgres)
    # Debian keeps the server's programs out of PATH, one folder for each version; the newest is taken.
    path=$(printf '%s\n' /usr/lib/postgresql/*/bin/postgres | sort -V | tail -n 1)
    [[ -x $path ]] || path=$(command -v postgres || true)
    [[ -n $path ]] && echo "$path" && exit 0
    ;;
esac
exit 1
