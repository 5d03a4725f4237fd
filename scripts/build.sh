#!/bin/bash
# Configures a preset of CMakePresets.json when it is not configured yet, and builds it:
#   scripts/build.sh PRESET [TARGET...]
set -euo pipefail
cd "$(dirname "$0")/.."
preset=$1
shift
folder=build
[[ $preset == asan || $preset == tsan ]] && folder=build-$preset
log=$(mktemp)
trap 'rm -f "$log"' EXIT
# Configuring is silent unless it fails: what a user wants to see is the build.
cmake --preset "$preset" >"$log" 2>&1 || { cat "$log" >&2; exit 1; }
cmake --build "$folder" --parallel "${JOBS:-$(nproc)}" ${*:+--target "$@"}
