#!/usr/bin/env bash
# Installs what the tests need and this machine lacks, or names it in one line with the command that installs it.
# The tests start their own private servers on free ports: whatever a package starts as a service is never used.
set -euo pipefail
cd "$(dirname "$0")"

# What is missing, as Debian names it.
missing() {
  command -v redis-server >/dev/null || echo redis-server
  ./find.sh postgres >/dev/null || echo postgresql
  ./find.sh chromium >/dev/null || echo chromium
  command -v nginx >/dev/null || [[ -x /usr/sbin/nginx ]] || echo nginx
  # `ensurepip` is what Debian splits off into python3-venv.
  python3 -c 'import venv, ensurepip, sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null || echo python3-venv
  node -e 'process.exit(parseInt(process.versions.node) < 18 ? 1 : 0)' 2>/dev/null || echo nodejs
}

# The command for a person to run.
command_for() {
  if command -v apt-get >/dev/null; then
    echo "${sudo:+$sudo }apt-get update && ${sudo:+$sudo }apt-get install -y $*"
  elif command -v brew >/dev/null; then
    echo "brew install $*" | sed 's/redis-server/redis/; s/nodejs/node/; s/python3-venv/python/; s/chromium/google-chrome/'
  else
    echo "your package manager, for $*"
  fi
}

# What a package can't give everywhere.
hints_for() {
  local package
  for package in "$@"; do
    case $package in
      chromium) echo -n " (chromium must really start: Ubuntu's package only calls snap, there install google-chrome-stable from https://www.google.com/chrome or set TIDINGS_TEST_CHROMIUM)" ;;
      nodejs) echo -n " (node must be 18 or newer: https://nodejs.org)" ;;
    esac
  done
}

sudo=sudo
((EUID != 0)) || sudo=
read -ra packages <<<"$(missing | tr '\n' ' ')"

if ((${#packages[@]} > 0)) && command -v apt-get >/dev/null && ${sudo:+sudo -n} true 2>/dev/null; then
  echo "installing: ${packages[*]}"
  $sudo apt-get update -q </dev/null || echo "the package lists could not be renewed" >&2
  # One by one, so that a package that this release doesn't have keeps no other from being installed.
  for package in "${packages[@]}"; do
    $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends "$package" </dev/null ||
      echo "$package could not be installed" >&2
  done
  read -ra packages <<<"$(missing | tr '\n' ' ')"
fi

if ((${#packages[@]} > 0)); then
  echo "missing: ${packages[*]}; run: $(command_for "${packages[@]}")$(hints_for "${packages[@]}")" >&2
  exit 1
fi
echo "nothing is missing"
