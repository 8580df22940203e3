#!/usr/bin/env bash
# run.sh [--out DIR] [--quick] [--device cuda:N] [--only STEP,...] [--limit SECONDS] [--examples "NAME..."]
#        [--tests "NAME..."] [--rows REGEX] [--sweep] [--python PROGRAM]
#
# In a folder that gpu.sh --pack made, beside a GPU. Steps:
#   facts   the GPU, its driver and clocks, PyTorch
#   smoke   launches from Python, by ctypes
#   tests   suites of the runtime, an emitted kernel without the library, the host's time of a launch
#   check   attnc check on the examples
#   bench   gpu_bench.py; attnc bench on a few examples where python3 has no PyTorch
# Logs, bench.json and summary.txt go to DIR (./gpu-report). Ends with the table and a summary; the exit status is 0
# where all passed. Of the time (1800 s) tests take a sixth at most, check a third. --examples and --tests choose among
# them, --rows among those of the benchmark; --sweep times this project's schedules instead of its peers. Nothing of the
# GPU is set.
set -euo pipefail
pack="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"

die() { printf 'run.sh: %s\n' "$*" >&2; exit 2; }
value() { [ $# -ge 2 ] || die "$1 needs a value"; printf '%s' "$2"; }

out=gpu-report device=cuda:0 only=facts,smoke,tests,check,bench limit=1800 python=python3
examples="" tests="" rows=""
quick=() sweep=()
while [ $# -gt 0 ]; do
  case "$1" in
    --quick) quick=(--quick); shift; continue ;;
    --sweep) sweep=(--sweep); shift; continue ;;
    -h | --help) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}"; exit 0 ;;
    --out) out="$(value "$@")" ;;
    --device) device="$(value "$@")" ;;
    --only) only="$(value "$@")" ;;
    --limit) limit="$(value "$@")" ;;
    --examples) examples="$(value "$@")" ;;
    --tests) tests="$(value "$@")" ;;
    --rows) rows="$(value "$@")" ;;
    --python) python="$(value "$@")" ;;
    *) die "what is $1? --help tells the options" ;;
  esac
  shift 2
done
[[ "$limit" =~ ^[1-9][0-9]*$ ]] || die "--limit is \"$limit\": write seconds"
[[ "$device" =~ ^cuda:[0-9]+$ ]] || die "--device is \"$device\": write cuda:N"
IFS=, read -r -a steps <<<"$only"
for step in "${steps[@]}"; do
  case "$step" in
    facts | smoke | tests | check | bench) ;;
    *) die "--only knows facts, smoke, tests, check and bench, not \"$step\"" ;;
  esac
done

mkdir -p "$out"
out="$(cd "$out" && pwd)"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
# Code is compiled here and now, not found from an earlier run.
export ATTN_CACHE_DIR="$work/cache" PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
export LD_LIBRARY_PATH="$pack/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
if [ -f "$pack/lib/libLLVM-22.so.gz" ]; then
  gzip -dc "$pack/lib/libLLVM-22.so.gz" >"$work/libLLVM-22.so"
  export ATTN_LLVM_LIBRARY="$work/libLLVM-22.so"
fi
attnc="$pack/bin/attnc"
bad=0

summary() { printf '%s\n' "$*" | tee -a "$out/summary.txt"; }

# A step's commands: begin LOG SECONDS, try NAME COMMAND... for each, finish STEP.
begin() {
  log="$out/$1.log" end="$((SECONDS + $2))" passed=0 failed=()
  : >"$log"
}

try() {
  local name="$1" status=0
  shift
  if [ "$SECONDS" -ge "$end" ]; then
    failed+=("$name (not reached)")
    return
  fi
  printf '== %s\n' "$name" >>"$log"
  timeout --kill-after=10 "$((end - SECONDS))" "$@" >>"$log" 2>&1 || status=$?
  case "$status" in
    0) passed=$((passed + 1)) ;;
    124 | 137) failed+=("$name (out of time)") ;;
    *) failed+=("$name (exit status $status)") ;;
  esac
}

finish() {
  local text="$1: $passed passed" name
  [ $((passed + ${#failed[@]})) -gt 0 ] || failed=("nothing was found to run")
  if [ ${#failed[@]} -gt 0 ]; then
    bad=1 text+=", ${#failed[@]} did not:"
    for name in "${failed[@]}"; do text+=" $name,"; done
  fi
  summary "${text%,}"
}

left() { printf '%s' "$((limit > SECONDS ? limit - SECONDS : 0))"; }

step_facts() {
  local facts=index,name,driver_version,compute_cap,memory.total,clocks.sm,clocks.max.sm,clocks.mem,power.limit
  {
    echo "attn $("$attnc" --version | head -n 1), revision $(cat "$pack/revision")"
    date -u '+%Y-%m-%d %H:%M UTC'
    uname -srm
    nvidia-smi --query-gpu="$facts" --format=csv 2>/dev/null || echo "no nvidia-smi"
    "$attnc" targets 2>&1 || true
    "$python" -c 'import sys, torch; print("Python", sys.version.split()[0], "PyTorch", torch.__version__, "CUDA",
                  torch.version.cuda)' 2>/dev/null || echo "$python: no PyTorch"
  } >"$out/facts.txt"
  cat "$out/facts.txt"
}

step_smoke() {
  if ! command -v "$python" >/dev/null; then
    summary "smoke: left out, there is no $python"
    return
  fi
  begin smoke 120
  try smoke "$python" "$pack/bench/attn_ctypes.py" "$pack/lib/libattn.so" "$device"
  cat "$log"
  finish smoke
}

step_tests() {
  local program name command
  begin tests "$((limit / 6))"
  for program in "$pack"/tests/*; do
    name="$(basename "$program")" command=("$program")
    if [ ! -x "$program" ] || [[ -n "$tests" && " $tests " != *" $name "* ]]; then continue; fi
    [ "$name" != example_load_ptx ] || command+=("$pack/tests/causal.ptx")
    try "$name" env ATTN_TEST_GPU=1 ATTN_CACHE=0 CK_DEFAULT_TIMEOUT=600 "${command[@]}"
  done
  cat "$log"
  finish tests
}

# A process for each, so that one that breaks the device leaves the others alone.
step_check() {
  local file
  begin check "$((limit / 3))"
  for file in "$pack"/examples/*.attn; do
    if [[ -n "$examples" && " $examples " != *" $(basename "$file" .attn) "* ]]; then continue; fi
    try "$(basename "$file" .attn)" "$attnc" check "$file" --device "$device" "${quick[@]}"
  done
  [ ${#failed[@]} -eq 0 ] || grep -v '^ok ' "$log" | tail -n 100 || true
  finish check
}

step_bench() {
  local name size=4096 repeat=20 seconds
  seconds="$(left)"
  begin bench "$((seconds + 120))" # a row that began in time may end later
  if "$python" -c 'import torch, sys; sys.exit(not torch.cuda.is_available())' 2>/dev/null; then
    try gpu_bench.py "$python" "$pack/bench/gpu_bench.py" --library "$pack/lib/libattn.so" --device "$device" \
      --json "$out/bench.json" --rows "$rows" --limit "$((seconds > 60 ? seconds - 60 : 1))" "${quick[@]}" "${sweep[@]}"
  else
    [ ${#quick[@]} -eq 0 ] || { size=128; repeat=2; }
    for name in ${examples:-full causal gqa softcap sliding}; do
      try "$name" "$attnc" bench "$pack/examples/$name.attn" --device "$device" --type f16 \
        --shape "B=1,NQ=$size,NK=$size" --repeat "$repeat"
    done
  fi
  cat "$log"
  finish bench
}

: >"$out/summary.txt"
for step in "${steps[@]}"; do
  case "$step" in
    facts) step_facts ;;
    smoke) step_smoke ;;
    tests) step_tests ;;
    check) step_check ;;
    bench) step_bench ;;
  esac
done
if [ "$bad" -eq 0 ]; then summary "all passed in $SECONDS s"; else summary "NOT all passed; logs in $out"; fi
exit "$bad"
