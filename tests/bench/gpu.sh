#!/usr/bin/env bash
# gpu.sh [--build DIR] [OPTIONS OF gpu_run.sh]     packs into a temporary folder and runs that here
# gpu.sh --pack DIR [--build DIR] [--no-llvm]      packs only; DIR/run.sh runs on another machine
#
# Tests and times the NVIDIA targets on a GPU (gpu_run.sh says how). The pack holds all that takes: the command, the
# library, test programs, examples, the benchmark, and a libLLVM with nothing but the targets that are used, linked from
# the archives of llvm-22-dev. So the machine with the GPU needs its driver and glibc as here or newer; python3 with
# PyTorch for the benchmark. About 25 MiB. --no-llvm leaves libLLVM out, for machines that have it.
#
# Without --build, build/dev is brought up to date first.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
root="$(cd "$here/../.." && pwd)"
programs=(unit_cuda_code unit_cuda_device unit_cuda_launch unit_cuda_stream bench_launch_overhead example_load_ptx)

die() { printf 'gpu.sh: %s\n' "$*" >&2; exit 2; }
value() { [ $# -ge 2 ] || die "$1 needs a value"; printf '%s' "$2"; }

build="" pack="" llvm=yes
pass=()
while [ $# -gt 0 ]; do
  case "$1" in
    --build) build="$(value "$@")"; shift ;;
    --pack) pack="$(value "$@")"; shift ;;
    --no-llvm) llvm=no ;;
    -h | --help) sed -s -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$here/gpu.sh" "$here/gpu_run.sh"; exit 0 ;;
    *) pass+=("$1") ;;
  esac
  shift
done
[ -z "$pack" ] || [ ${#pass[@]} -eq 0 ] || die "--pack goes with --build and --no-llvm only, not ${pass[0]}"

if [ -z "$build" ]; then
  build="$root/build/dev"
  (cd "$root" && cmake --preset dev >/dev/null &&
    cmake --build --preset dev --target attnc attn "${programs[@]}" -- --quiet) || die "could not build $build"
fi
[ -x "$build/attnc" ] || die "$build/attnc is not there; build it, or leave out --build"

# The libraries of a program that not every machine has.
libraries() {
  local name arrow path
  ldd "$1" | while read -r name arrow path _; do
    case "$name" in
      libc.so.* | libm.so.* | libdl.so.* | libpthread.so.* | librt.so.* | libgcc_s.so.* | libstdc++.so.* | libz.so.*) ;;
      *) [ "$arrow" != "=>" ] || [ ! -f "$path" ] || printf '%s\n' "$path" ;;
    esac
  done
}

# link_llvm FILE: a libLLVM with the functions of compiler/emit/llvm_api.def for this processor and NVPTX. libz3,
# libxml2 and what they need, of which no code generator has use, stay behind.
link_llvm() {
  local config names=() undefined=() name target part native=X86
  [ "$(uname -m)" != aarch64 ] || native=AArch64
  config="$(sed -n 's/^ATTN_LLVM_CONFIG\(_FOUND\)\?:[A-Z]*=\(..*\)/\2/p' "$build/CMakeCache.txt" | head -n 1)"
  [ -x "$config" ] || die "$build/CMakeCache.txt names no llvm-config"
  mapfile -t names < <(sed -n 's/^LLVM_CALL(\(.*\))$/\1/p' "$root/compiler/emit/llvm_api.def")
  for target in "$native" NVPTX; do
    for part in TargetInfo Target TargetMC AsmPrinter; do names+=("LLVMInitialize$target$part"); done
  done
  names+=(LLVMGetVersion)
  { echo "{ global:"; printf '%s;\n' "${names[@]}"; echo "local: *; };"; } >"$work/llvm.map"
  for name in "${names[@]}"; do undefined+=("-Wl,-u,$name"); done
  # shellcheck disable=SC2046 # llvm-config prints words
  "${CC:-cc}" -shared -o "$1" "${undefined[@]}" -Wl,--gc-sections -Wl,-s -Wl,--version-script="$work/llvm.map" \
    -Wl,--start-group $("$config" --link-static --libs nvptx native passes) -Wl,--end-group -L"$("$config" --libdir)" \
    -l:libstdc++.so.6 -l:libz.so.1 -l:libzstd.so.1 -lm -ldl -lpthread ||
    die "could not link libLLVM from the archives in $("$config" --libdir) (Debian: llvm-22-dev); see --no-llvm"
}

fill() {
  local to="$1" name path files
  mkdir -p "$to"/{bin,lib,tests,examples,bench}
  cp "$build/attnc" "$to/bin/"
  cp -L "$build/libattn.so" "$to/lib/libattn.so"
  for name in "${programs[@]}"; do
    [ ! -x "$build/tests/$name" ] || cp "$build/tests/$name" "$to/tests/"
  done
  [ ! -f "$build/tests/causal.ptx" ] || cp "$build/tests/causal.ptx" "$to/tests/"
  files=("$to"/bin/* "$to"/lib/libattn.so)
  for path in "$to"/tests/*; do [ ! -x "$path" ] || files+=("$path"); done
  for path in "${files[@]}"; do libraries "$path"; done | sort -u | xargs -r cp -L -t "$to/lib"
  strip "${files[@]}"
  cp "$root"/examples/*.attn "$to/examples/"
  cp "$here"/*.py "$to/bench/"
  cp "$here/gpu_run.sh" "$to/run.sh"
  git -C "$root" log -1 --format='%h %cd' --date=short >"$to/revision" 2>/dev/null || echo unknown >"$to/revision"
  chmod +x "$to/run.sh"
}

work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
if [ -z "$pack" ]; then
  fill "$work/pack"
  "$work/pack/run.sh" "${pass[@]}"
  exit
fi
if [ -e "$pack" ]; then
  [ -f "$pack/run.sh" ] || [ -z "$(ls -A "$pack")" ] || die "$pack is there and is no pack"
  rm -rf "$pack"
fi
fill "$pack"
if [ "$llvm" = yes ]; then
  link_llvm "$work/libLLVM-22.so"
  gzip -6 -c "$work/libLLVM-22.so" >"$pack/lib/libLLVM-22.so.gz"
fi
printf 'gpu.sh: %s, %s MiB; there: %s/run.sh\n' "$pack" "$(du -sm "$pack" | cut -f 1)" "$(basename "$pack")"
