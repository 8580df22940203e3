#!/usr/bin/env bash
# cpu.sh [ATTNC] [THREADS...]
#
# The host target on this machine: a Markdown table of GFLOP/s over the visible pairs and of the share of the machine's
# multiply-add peak, which is measured in the same run of each row. f32, B = 1, H = 8, medians. Not a test.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
attnc="${1:-build/release/attnc}"
shift || true
threads=("$@")
[ ${#threads[@]} -gt 0 ] || threads=(1 2)
[ -x "$attnc" ] || { echo "cpu.sh: $attnc is not there; ./dev build release makes it" >&2; exit 2; }

work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT

# row NAME DIM N STATEMENTS...
row() {
  local name="$1" dim="$2" n="$3" spec="$work/spec.attn" count
  shift 3
  { echo "attention row {"; printf '  %s\n' "heads 8" "dim $dim" "type f32" "$@"; echo "}"; } >"$spec"
  for count in "${threads[@]}"; do
    "$attnc" bench "$spec" --shape "B=1,NQ=$n,NK=$n" --threads "$count" --json |
      awk -v name="$name" -v dim="$dim" -v n="$n" -v threads="$count" -F'[:,]' '
        /"median_ms"/ { ms = $2 } /^  "gflops"/ { speed = $2 } /"share_of_gflops"/ { share = $2 }
        END { printf "| %s | %d | %d | %d | %.1f | %.1f | %.2f |\n", name, dim, n, threads, ms, speed, share }'
  done
}

echo "| row | d | N | threads | ms | GFLOP/s | of peak |"
echo "|---|---|---|---|---|---|---|"
for n in 2048 4096; do row full 128 "$n"; done
for n in 1024 2048; do row full 64 "$n"; done
for n in 2048 4096; do row causal 128 "$n" "mask causal"; done
row causal 64 2048 "mask causal"
row "sliding 512" 128 4096 "mask 0 <= i - j < 512"
row "causal, alibi" 128 2048 "mask causal" "position alibi(slope = alibi_slope)"
row "causal, softcap" 128 2048 "mask causal" "score 50.0 * tanh(s / 50.0)"
row "causal, rope" 128 2048 "mask causal" "position rope"
