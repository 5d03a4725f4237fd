#!/bin/bash
# Installs the Debian packages of the named groups that are not there yet:
#   scripts/deps.sh build test quickstart
# Asks for root only when something is missing, and then through sudo. On a system without apt it
# prints what to install and stops; SKIP_DEPS=1 goes on with what the system has.
set -euo pipefail

declare -A groups=(
  [build]="g++ cmake ninja-build libdnnl-dev libhwy-dev libcli11-dev nlohmann-json3-dev libfmt-dev libpng-dev libjpeg-dev libexif-dev libsndfile1-dev libsamplerate0-dev libcrypto++-dev"
  [test]="libgtest-dev libgmock-dev clang libclang-rt-dev"
  [arm]="g++-aarch64-linux-gnu qemu-user"
  [quickstart]="perl perl-doc gzip bzip2 xz-utils"
  [bench]="libbenchmark-dev"
  [peer]="python3-torch"
  [format]="clang-format"
  [tidy]="clang-tidy"
)

packages=()
for group in "$@"; do
  [[ -v groups[$group] ]] || { echo "deps.sh: no group '$group'; there are: ${!groups[*]}" >&2; exit 2; }
  read -ra more <<<"${groups[$group]}"
  packages+=("${more[@]}")
done
[[ ${SKIP_DEPS:-} == 1 ]] && exit 0

if ! command -v apt-get >/dev/null || ! command -v dpkg-query >/dev/null; then
  cat >&2 <<END
This system has no apt-get. Please install what these Debian packages hold by your system's own means:
  ${packages[*]}
(a C++20 compiler, CMake 3.25, Ninja, oneDNN 2.x, Highway, CLI11, nlohmann-json, {fmt}, libpng, libjpeg,
libexif, libsndfile, libsamplerate, Crypto++, GoogleTest),
then run make again with SKIP_DEPS=1.
END
  exit 1
fi

missing=()
for package in "${packages[@]}"; do
  [[ $(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null) == installed ]] || missing+=("$package")
done
((${#missing[@]})) || exit 0

echo "Installing ${missing[*]}"
root=()
if ((EUID != 0)); then
  command -v sudo >/dev/null || {
    echo "As root, please run: apt-get install ${missing[*]}" >&2
    exit 1
  }
  root=(sudo)
fi
"${root[@]}" apt-get update -q
"${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "${missing[@]}"
