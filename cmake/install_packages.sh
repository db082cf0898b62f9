#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# bash cmake/install_packages.sh PACKAGE...: installs those Debian packages that are missing, with sudo
# when not root. On other systems it says what is missing, judged by the commands and headers alone.
set -euo pipefail

if command -v apt-get > /dev/null; then
  missing=()
  for package in "$@"; do
    dpkg-query -W -f '${Status}' "$package" 2> /dev/null | grep -q 'ok installed' || missing+=("$package")
  done
  [ ${#missing[@]} = 0 ] && exit 0
  echo "installing: ${missing[*]}" >&2
  sudo=()
  if [ "$(id -u)" != 0 ]; then
    command -v sudo > /dev/null || { echo "not root and no sudo: please install ${missing[*]}" >&2; exit 1; }
    sudo=(sudo)
  fi
  log=$(mktemp)
  trap 'rm -f "$log"' EXIT
  apt=("${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q -y)
  "${apt[@]}" install --no-install-recommends "${missing[@]}" > "$log" 2>&1 && exit 0
  "${apt[@]}" update > "$log" 2>&1 || true
  "${apt[@]}" install --no-install-recommends "${missing[@]}" > "$log" 2>&1 && exit 0
  tail -20 "$log" >&2
  echo "apt-get could not install: ${missing[*]}" >&2
  exit 1
fi

# What each package is for, so that it can be looked for by name elsewhere.
declare -A what=(
  [g++]="command g++" [clang]="command clang++" [cmake]="command cmake"
  [ninja-build]="command ninja" [pkg-config]="command pkg-config" [python3]="command python3"
  [libeigen3-dev]="header eigen3/Eigen/Core" [nlohmann-json3-dev]="header nlohmann/json.hpp"
  [libpcre2-dev]="header pcre2.h" [libutf8proc-dev]="header utf8proc.h"
  [catch2]="header catch2" [libcli11-dev]="header CLI/CLI.hpp" [libfmt-dev]="header fmt/format.h"
  [libcpp-httplib-dev]="header httplib.h")
missing=()
for package in "$@"; do
  read -r kind name <<< "${what[$package]:-none none}"
  case $kind in
    command) command -v "$name" > /dev/null || missing+=("$name") ;;
    header)
      found=
      for root in /usr/include /usr/local/include /opt/homebrew/include; do
        [ -e "$root/$name" ] && found=1
      done
      [ -n "$found" ] || missing+=("$name (Debian: $package)") ;;
  esac
done
[ ${#missing[@]} = 0 ] && exit 0
printf 'missing: %s\n' "${missing[@]}" >&2
echo "this is no Debian or Ubuntu, so please install these by your system's means" >&2
exit 1
