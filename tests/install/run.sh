#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Can others use it? Builds the real projects of this folder against the library, each in one of the
# ways in which a project gets it. bash tests/install/run.sh [find_package | subdirectory | ...]
set -u
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
here=$root/tests/install
work=$root/build/install
mkdir -p "$work"
status=0

check() {  # check NAME: runs the function of that name
  local name=$1 result begin=$SECONDS
  (set -e; "$name") > "$work/$name.log" 2>&1
  result=$?
  case $result in
    0) echo "$name: passed ($((SECONDS - begin)) s)" ;;
    77) echo "$name: skipped, $(tail -1 "$work/$name.log")" ;;
    *) echo "$name: FAILED ($work/$name.log)"; tail -25 "$work/$name.log"; status=1 ;;
  esac
}

build_and_run() {  # build_and_run PROJECT [cmake argument...]
  local build=$work/$1-build
  rm -rf "$build"
  cmake -S "$here/$1" -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=Debug "${@:2}"
  cmake --build "$build"
  "$build/consumer"
  "$build/consumer_text"
}

find_package() {
  local prefix=$work/prefix moved=$work/moved
  rm -rf "$prefix" "$moved" "$work/build"
  cmake -S "$root" -B "$work/build" -G Ninja -DBISUP_BUILD_TESTS=OFF -DBISUP_BUILD_EXAMPLES=OFF \
    -DCMAKE_INSTALL_PREFIX="$prefix"
  cmake --install "$work/build"
  mv "$prefix" "$moved"  # a prefix that moved must still work
  if grep -rlF -e "$prefix" -e "$root" "$moved"; then echo "absolute paths inside"; return 1; fi
  build_and_run find_package -DCMAKE_PREFIX_PATH="$moved"
}
subdirectory() { build_and_run subdirectory -DBISUP_SOURCE="$root"; }
fetchcontent() { build_and_run fetchcontent -DBISUP_SOURCE="$root"; }
vcpkg() {
  cmake -DROOT="$root" -DWORK="$work/vcpkg" -P "$here/vcpkg/simulate.cmake"
  build_and_run find_package -DCMAKE_PREFIX_PATH="$work/vcpkg/packages/bisup"
}
conan() {
  local venv=$work/conan-venv
  if [ ! -x "$venv/bin/conan" ]; then
    rm -rf "$venv"
    python3 -m venv "$venv"
    if ! "$venv/bin/pip" install -q --disable-pip-version-check 'conan>=2,<3'; then
      # A name that surely exists tells an unreachable index from a broken package.
      "$venv/bin/pip" download -q --no-deps -d "$work/reach" pip && return 1
      echo "PyPI is unreachable"
      return 77
    fi
  fi
  export CONAN_HOME=$work/conan-home
  rm -rf "$CONAN_HOME"
  mkdir -p "$CONAN_HOME"
  "$venv/bin/conan" create "$root" --no-remote --build=missing \
    -pr:a "$here/conan/profile" --test-folder "$root/test_package"
  rm -rf "$root/test_package/build" "$root/test_package/CMakeUserPresets.json"
}

for name in ${*:-find_package subdirectory fetchcontent vcpkg conan}; do check "$name"; done
exit $status
