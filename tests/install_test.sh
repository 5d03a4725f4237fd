#!/bin/bash
# The installed library as another project sees it: installs BUILD to a fresh prefix, builds examples/ against it
# with find_package(megabyte), and continues a prompt.
#   tests/install_test.sh SOURCE BUILD
set -euo pipefail
source=$1 build=$2
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cmake --install "$build" --prefix "$folder/prefix" >/dev/null
cmake -S "$source/examples" -B "$folder/build" -DCMAKE_PREFIX_PATH="$folder/prefix" -DCMAKE_BUILD_TYPE=Release >/dev/null
cmake --build "$folder/build" >/dev/null
"$folder/prefix/bin/megabyte" --version
out=$("$folder/build/complete" "$source/tests/fixtures/paper" "abc" | tr -d '\0')
[[ $out == abc* && $out == *"bits per byte"* ]] || { echo "unexpected output: $out" >&2; exit 1; }
"$folder/build/complete" /nonexistent abc 2>"$folder/error" && { echo "a missing model went unnoticed" >&2; exit 1; }
grep -q /nonexistent "$folder/error"
