#!/usr/bin/env bash
# cpu_peers.sh [--venv DIR] [--torch-index URL] [--png FILE] [OPTIONS OF cpu_peers.py]
#
# The host target beside PyTorch and ONNX Runtime on this machine. Makes a Python environment with them, the first time,
# and runs cpu_peers.py in it; then prints its results as tables, and draws them. What cannot be installed is named and
# left out. Nothing else of this project needs the environment.
#
#   --venv DIR          the environment; $XDG_CACHE_HOME/attnc-peers, or ~/.cache/attnc-peers
#   --torch-index URL   where pip finds PyTorch: builds for the CPU only are much smaller than those of PyPI, of 5 GB
#   --json FILE         results are kept there, and rows that it holds from earlier runs are printed as well
#   --png FILE          draws them there
#
# Needs a release build (./dev build release) or --build DIR; FlexAttention needs g++.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"

say() { printf 'cpu_peers.sh: %s\n' "$*" >&2; }
die() { say "$*"; exit 2; }
value() { [ $# -ge 2 ] || die "$1 needs a value"; printf '%s' "$2"; }

build="$here/../../build/release" venv="${XDG_CACHE_HOME:-$HOME/.cache}/attnc-peers" png="" results="" index=()
pass=()
while [ $# -gt 0 ]; do
  case "$1" in
    --venv) venv="$(value "$@")"; shift ;;
    --torch-index) index=(--index-url "$(value "$@")"); shift ;;
    --png) png="$(value "$@")"; shift ;;
    --json) results="$(value "$@")"; shift ;;
    --build) build="$(value "$@")"; shift ;;
    -h | --help) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0"; exit 0 ;;
    *) pass+=("$1") ;;
  esac
  shift
done
for file in attnc libattn.so; do
  [ -e "$build/$file" ] || die "$build/$file is not there; ./dev build release makes it"
done

if [ ! -x "$venv/bin/python" ]; then
  say "making $venv"
  python3 -m venv "$venv" || die "python3 -m venv failed (Debian: python3-venv); or give --venv one that exists"
fi
# ensure MODULE PIP_ARGUMENTS...
ensure() {
  local module="$1"
  shift
  "$venv/bin/python" -c "import $module" 2>/dev/null && return
  say "installing $module"
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check "$@" >&2 || say "pip could not install $module"
}
ensure numpy numpy
ensure onnx onnx
ensure onnxruntime onnxruntime
ensure torch torch ${index[@]+"${index[@]}"}
command -v g++ >/dev/null || say "no g++, which FlexAttention compiles with; its rows will fail"

work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
results="${results:-$work/results.json}"
"$venv/bin/python" "$here/cpu_peers.py" --build "$build" --json "$results" ${pass[@]+"${pass[@]}"} >&2
[ -e "$results" ] || exit 0 # only checked
"$venv/bin/python" "$here/cpu_report.py" "$results" ${png:+--png "$png"}
