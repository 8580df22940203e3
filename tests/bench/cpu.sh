#!/usr/bin/env bash
# cpu.sh [--rows PATTERN]... [--no-head] [ATTNC] [THREADS...]
#
# The host target on this machine: a Markdown table of GFLOP/s over the visible pairs and of the share of the machine's
# multiply-add peak, which is measured in the same run of each row. f32 and B = 1 unless a row says otherwise, medians.
# PATTERN chooses rows by what stands in the first columns, "full d=128 N=2048", as the shell matches file names;
# without, all of them take about three minutes. Not a test.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
patterns=() head=yes
while [[ "${1:-}" == --* ]]; do
  case "$1" in
    --rows) patterns+=("${2:?--rows needs a pattern}"); shift 2 ;;
    --no-head) head=no; shift ;;
    *) echo "cpu.sh: no option $1" >&2; exit 2 ;;
  esac
done
attnc="${1:-build/release/attnc}"
shift || true
threads=("$@")
[ ${#threads[@]} -gt 0 ] || threads=(1 2)
[ ${#patterns[@]} -gt 0 ] || patterns=("*")
[ -x "$attnc" ] || { echo "cpu.sh: $attnc is not there; ./dev build release makes it" >&2; exit 2; }

work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT

wanted() {
  local pattern
  # shellcheck disable=SC2053 # a pattern, not a text
  for pattern in "${patterns[@]}"; do [[ "$1" == $pattern ]] && return; done
  return 1
}

# spec DIM HEADS TYPE STATEMENTS...: into the file $work/spec.attn
spec() {
  local dim="$1" heads="$2" type="$3"
  shift 3
  { echo "attention row {"; printf '  %s\n' "heads $heads" "dim $dim" "type $type" "$@"; echo "}"; } >"$work/spec.attn"
}

# row NAME DIM N STATEMENTS...; $heads, $type, $batch and $repeat as below or as a caller has set them
heads=8 type=f32 batch=1 repeat=9
row() {
  local name="$1" dim="$2" n="$3" count
  shift 3
  wanted "$name d=$dim N=$n" || return 0
  spec "$dim" "$heads" "$type" "$@"
  for count in "${threads[@]}"; do
    "$attnc" bench "$work/spec.attn" --shape "B=$batch,NQ=$n,NK=$n" --threads "$count" --repeat "$repeat" --json |
      awk -v name="$name" -v dim="$dim" -v n="$n" -v threads="$count" -F'[:,]' '
        /"median_ms"/ { ms = $2 } /^  "gflops"/ { speed = $2 } /"share_of_gflops"/ { share = $2 }
        END { printf "| %s | %d | %d | %d | %.4g | %.1f | %.2f |\n", name, dim, n, threads, ms, speed, share }'
  done
}

# memory NAME DIM STATEMENTS...: of each thread, whatever the shape
memory() {
  local name="$1" dim="$2"
  shift 2
  wanted "memory, $name d=$dim N=-" || return 0
  spec "$dim" "$heads" "$type" "$@"
  "$attnc" explain "$work/spec.attn" --compile |
    awk -v name="$name" -v dim="$dim" '/working memory/ { sub(/.*, and /, ""); sub(/ of working.*/, "")
      printf "| memory, %s | %d | - | - | %s a thread | - | - |\n", name, dim, $0 }'
}

if [ "$head" = yes ]; then
  echo "| row | d | N | threads | ms | GFLOP/s | of peak |"
  echo "|---|---|---|---|---|---|---|"
fi
for n in 2048 4096; do repeat=$((18432 / n)) row full 128 "$n"; done
for n in 1024 2048; do row full 64 "$n"; done
for n in 2048 4096; do row causal 128 "$n" "mask causal"; done
row causal 64 2048 "mask causal"
row "sliding 512" 128 4096 "mask 0 <= i - j < 512"
row "causal, alibi" 128 2048 "mask causal" "position alibi(slope = alibi_slope)"
row "causal, softcap" 128 2048 "mask causal" "score 50.0 * tanh(s / 50.0)"
row "causal, rope" 128 2048 "mask causal" "position rope"
row "prefix" 128 2048 "input length : i32[B]" "mask prefix(length[b])"
for n in 2048 4096; do row "documents" 128 "$n" "input doc : i32[B, NK]" "mask causal and same(doc)"; done
batch=4 repeat=5 row "causal, ragged, 4 sequences" 128 2048 "mask causal" "cache ragged"
batch=4 row "causal, 4 sequences" 128 512 "mask causal"
heads="q = 32, kv = 8" row "causal, 32/8 heads" 128 1024 "mask causal"
heads=32 row "causal, 32 heads" 128 1024 "mask causal"
for type in f16 bf16; do row "causal, $type" 128 2048 "mask causal"; done
type=f32 heads=1 repeat=2000
for n in 0 16; do row "launch, 1 head" 32 "$n"; done
heads=2
for n in 1024 4096 16384 32768; do repeat=$((n < 4096 ? 60 : n < 16384 ? 7 : 1)) row "growth, full, 2 heads" 64 "$n"; done
for n in 1024 4096 16384 32768; do repeat=$((n < 4096 ? 60 : n < 16384 ? 7 : 1)) row "growth, causal, 2 heads" 64 "$n" "mask causal"; done
heads=8
for dim in 64 128; do memory full "$dim"; memory causal "$dim" "mask causal"; done

decode="$(dirname "$attnc")/tests/bench_decode"
for count in "${threads[@]}"; do
  if [ ! -x "$decode" ] || ! wanted decode; then break; fi
  echo
  "$decode" "$count"
done
