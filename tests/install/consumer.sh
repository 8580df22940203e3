#!/usr/bin/env bash
# consumer.sh BUILD: installs the build into a temporary prefix, moves that prefix, and uses it the way a stranger
# would: examples/consumer, in C and in C++, through pkg-config and through find_package, and the command. C++ is left
# out where there is no compiler for it.
set -euo pipefail

[ $# -eq 1 ] || { echo "usage: $0 BUILD_DIRECTORY" >&2; exit 2; }
build="$1"
source_dir="$(cd "$(dirname "${BASH_SOURCE[0]}")/../../examples/consumer" && pwd)"
cc="${CC:-cc}"
cxx="${CXX:-c++}"
cmake="${CMAKE:-cmake}"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
fail() { echo "consumer.sh: $*" >&2; exit 1; }

"$cmake" --install "$build" --prefix "$work/first" >"$work/install.log" || { cat "$work/install.log"; exit 1; }
mv "$work/first" "$work/prefix"
prefix="$work/prefix"

pc="$(find "$prefix" -name attn.pc)"
[ -n "$pc" ] || fail "attn.pc is not installed"
library="$(find "$prefix" -name 'libattn.so.0')"
[ -n "$library" ] || fail "libattn.so.0 is not installed"
export LD_LIBRARY_PATH="${library%/*}"

foreign="$(nm -D --defined-only "$library" | awk '$3 !~ /^attn_/ {print $3}')"
[ -z "$foreign" ] || fail "libattn.so.0 exports more than attn_*: $foreign"
[ -f "$prefix/share/attn/examples/full.attn" ] || fail "the example specs are not installed"
for file in "$library" "$prefix/bin/attnc"; do
  ! readelf -d "$file" | grep -E 'RPATH|RUNPATH' || fail "$file carries a search path of the build"
  ! readelf -d "$file" | grep -E 'NEEDED.*LLVM' || fail "$file links libLLVM, which is to be loaded on demand"
done

export PKG_CONFIG_PATH="${pc%/*}"
expect_version() {
  local printed expected
  expected="$(pkg-config --modversion attn)"
  printed="$("$1")"
  [ "$printed" = "$expected" ] || fail "the library says version $printed, its package $expected"
}

read -r -a flags <<<"$(pkg-config --cflags --libs attn)"
"$cc" -std=c99 -Wall -Wextra -Werror -pedantic "$source_dir/main.c" -o "$work/by-pkg-config" "${flags[@]}"
expect_version "$work/by-pkg-config"

# Every header can be included alone, in C99 and in C++11.
for header in attn cache; do
  echo "#include <attn/$header.h>" >"$work/alone.c"
  cp "$work/alone.c" "$work/alone.cpp"
  "$cc" -std=c99 -Wall -Wextra -Werror -pedantic -fsyntax-only "$work/alone.c" "${flags[@]}"
  ! command -v "$cxx" >/dev/null ||
    "$cxx" -std=c++11 -Wall -Wextra -Werror -pedantic -fsyntax-only "$work/alone.cpp" "${flags[@]}"
done

consumers=(consumer)
language=(-DCMAKE_CXX_COMPILER=) # CMake is to look for none of its own either
if command -v "$cxx" >/dev/null; then
  consumers+=(consumer_cpp)
  language=("-DCMAKE_CXX_COMPILER=$cxx")
  "$cxx" -std=c++11 -Wall -Wextra -Werror -pedantic "$source_dir/main.cpp" -o "$work/by-pkg-config-cpp" "${flags[@]}"
  expect_version "$work/by-pkg-config-cpp"
else
  echo "consumer.sh: no C++ compiler ($cxx), so that C++ was not tried"
fi

build_consumer() {
  "$cmake" -G Ninja -S "$source_dir" -B "$work/consumer" -DCMAKE_PREFIX_PATH="$prefix" \
    -DCMAKE_C_COMPILER="$cc" "${language[@]}" &&
    "$cmake" --build "$work/consumer"
}
build_consumer >"$work/consumer.log" 2>&1 || { cat "$work/consumer.log"; fail "find_package(attn) cannot be used"; }
for program in "${consumers[@]}"; do
  expect_version "$work/consumer/$program"
done

"$prefix/bin/attnc" --version
