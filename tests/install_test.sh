#!/bin/bash
# What is installed: BUILD goes to a fresh prefix; the program there compresses with the models that came with it; and
# another project, examples/, is built with find_package(megabyte) and continues a prompt.
#   tests/install_test.sh SOURCE BUILD
set -euo pipefail
source=$1 build=$2
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cmake --install "$build" --prefix "$folder/prefix" >/dev/null
cmake -S "$source/examples" -B "$folder/build" -DCMAKE_PREFIX_PATH="$folder/prefix" -DCMAKE_BUILD_TYPE=Release >/dev/null
cmake --build "$folder/build" >/dev/null
"$folder/prefix/bin/megabyte" --version
"$folder/prefix/bin/megabyte" compress "$source/LICENSE" -o "$folder/archive" 2>"$folder/said"
grep -q "$folder/prefix/share/megabyte/model" "$folder/said" || { cat "$folder/said" >&2; exit 1; }
"$folder/prefix/bin/megabyte" decompress "$folder/archive" -o "$folder/back" --quiet
cmp "$source/LICENSE" "$folder/back"
(($(stat -c %s "$folder/archive") < $(stat -c %s "$source/LICENSE") / 2)) || {
  echo "the model in the box does not halve a licence" >&2
  exit 1
}
"$folder/prefix/bin/megabyte" compress --fast "$source/LICENSE" -o "$folder/fast" 2>"$folder/said"
grep -q "$folder/prefix/share/megabyte/model-fast" "$folder/said" || { cat "$folder/said" >&2; exit 1; }
"$folder/prefix/bin/megabyte" decompress "$folder/fast" -o "$folder/back" --force --quiet
cmp "$source/LICENSE" "$folder/back"
out=$("$folder/build/complete" "$source/tests/fixtures/paper" "abc" | tr -d '\0')
[[ $out == abc* && $out == *"bits per byte"* ]] || { echo "unexpected output: $out" >&2; exit 1; }
"$folder/build/complete" /nonexistent abc 2>"$folder/error" && { echo "a missing model went unnoticed" >&2; exit 1; }
grep -q /nonexistent "$folder/error"
