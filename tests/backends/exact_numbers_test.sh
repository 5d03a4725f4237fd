#!/bin/bash
# exact_numbers_test.sh SOURCE: the exact backend's kernels give one hash with every compiler and for
# every processor that can be had here: g++, clang, and 64-bit ARM under qemu-user. What is missing is
# named; exit code 77 (skipped) where it is everything but the compiler of the build.
set -euo pipefail
source=$1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
expected=9e6f693fb6da4503

# build COMPILER NAME: the program at $work/NAME
build() {
  local compiler=$1 name=$2 x86=()
  local exact=$source/src/backends/exact flags=(-std=c++20 -O2 -ffp-contract=off -Wno-psabi "-I$source/src")
  mkdir "$work/$name.o"
  if [[ $name != arm64 ]]; then
    x86=(-DMEGABYTE_EXACT_X86)
    "$compiler" "${flags[@]}" -mavx2 -mfma -c "$exact/avx2.cpp" -o "$work/$name.o/avx2.o"
    "$compiler" "${flags[@]}" -mavx2 -mfma -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx512vnni \
      -c "$exact/avx512.cpp" -o "$work/$name.o/avx512.o"
  fi
  local file
  for file in "$exact"/{plain,kernels,frequencies,rotary_table}.cpp "$source/tests/backends/exact_numbers.cpp"; do
    "$compiler" "${flags[@]}" "${x86[@]}" -c "$file" -o "$work/$name.o/$(basename "$file").o"
  done
  "$compiler" -static "$work/$name.o"/*.o -o "$work/$name"
}

compared=0
# compare NAME COMMAND...: every line that it prints has the expected hash
compare() {
  local name=$1 kernels hash lines
  shift
  lines=$("$@")
  while read -r kernels hash; do
    echo "$name $kernels $hash"
    [[ $hash == "$expected" ]] || { echo "but the numbers of this version give $expected" >&2; exit 1; }
    compared=$((compared + 1))
  done <<<"$lines"
}

if [[ $(uname -m) == x86_64 ]]; then
  for compiler in g++ clang++; do
    if command -v "$compiler" >/dev/null; then
      build "$compiler" "$compiler"
      compare "$compiler" "$work/$compiler"
    else
      echo "left out: there is no $compiler"
    fi
  done
fi
cross=aarch64-linux-gnu-g++ emulator=qemu-aarch64
if command -v $cross >/dev/null && command -v $emulator >/dev/null; then
  build $cross arm64
  compare arm64 $emulator "$work/arm64"
else
  echo "left out: 64-bit ARM needs $cross and $emulator (g++-aarch64-linux-gnu, qemu-user)"
fi
((compared)) || exit 77
