#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Builds Polyak with its tests and runs them.
set -euo pipefail
# shellcheck source=.ci/setup.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/.ci/setup.sh"

usage() {
  cat <<'TEXT'
test.sh [--torch system|pip|pip==VERSION|FOLDER] [--sanitize address,undefined|thread] [--filter REGEX] [--werror]

Installs what is missing, builds with tests, runs them, and ends with ctest's count.

  --torch SOURCE    system: libtorch-dev (the default); pip: the wheel of PyPI, 2.15.0; pip==2.12.0: another of its
                    versions; FOLDER: another LibTorch
  --sanitize LIST   compile the libraries with these sanitizers of the compiler; with thread, tests too
  --filter REGEX    run only tests whose name matches
  --werror          treat warnings as errors
TEXT
}

torch=system sanitize='' filter='' werror=OFF
while (( $# )); do
  case $1 in
    -h|--help) usage; exit ;;
    --torch) need_value "$1" $#; torch=$2; shift 2 ;;
    --torch=*) torch=${1#*=}; shift ;;
    --sanitize) need_value "$1" $#; sanitize=$2; shift 2 ;;
    --sanitize=*) sanitize=${1#*=}; shift ;;
    --filter) need_value "$1" $#; filter=$2; shift 2 ;;
    --filter=*) filter=${1#*=}; shift ;;
    --werror) werror=ON; shift ;;
    *) usage_error "unknown option $1" ;;
  esac
done
[[ -z $sanitize || $sanitize =~ ^(address|undefined|thread|leak)(,(address|undefined|thread|leak))*$ ]] ||
  usage_error "--sanitize takes address, undefined, thread or leak, with commas between, not '$sanitize'"

torch_packages=$(torch_packages "$torch")
[[ $torch != system ]] || torch_packages+=' python3-torch'
# shellcheck disable=SC2086
install_packages "${POLYAK_BUILD_PACKAGES[@]}" "${POLYAK_TEST_PACKAGES[@]}" $torch_packages
choose_torch "$torch"

folder=release-$torch_name
options=(-DCMAKE_BUILD_TYPE=Release -DPOLYAK_BUILD_TESTS=ON -DPOLYAK_WERROR="$werror")
if [[ -n $torch_python ]]; then
  options+=(-DPOLYAK_INTEROP_TESTS=ON -DPOLYAK_PYTHON="$torch_python")
else
  say "No Python with this LibTorch's version: the tests that need one are left out (POLYAK_PYTHON=... names one)"
  options+=(-DPOLYAK_INTEROP_TESTS=OFF)
fi
if [[ $torch == pip || $torch == pip==* ]]; then
  install_mmengine "$(wheel_version "$torch")"
  # Benchmarks measure the same kernels as with the system's LibTorch: to compile them once is enough for a test. And
  # compiling is half of this leg: the kernels have -O3 of their own.
  options+=(-DPOLYAK_MMENGINE_TESTS=ON -DPOLYAK_BENCHMARKS=OFF "-DCMAKE_CXX_FLAGS_RELEASE=-O1 -DNDEBUG")
fi
if [[ -n $sanitize ]]; then
  folder=${sanitize//,/-}-$torch_name
  # Compiling is most of this leg: -O1 is what the presets of sanitizers use, and benchmarks have none to find. Attach
  # is left out: a sanitizer's library must be the first that is loaded, and most of attach's tests cannot run with one.
  options+=(-DCMAKE_BUILD_TYPE=None -DCMAKE_CXX_FLAGS=-O1 -DPOLYAK_SANITIZE="$sanitize" -DPOLYAK_BENCHMARKS=OFF
    -DPOLYAK_BUILD_ATTACH=OFF)
  # shellcheck source=.ci/sanitizers.sh
  source "$POLYAK_ROOT/.ci/sanitizers.sh"
fi
# To load LibTorch takes longer than most unit tests: without a filter, their programs run as a whole.
options+=(-DPOLYAK_WHOLE_PROGRAMS="$([[ -n $filter ]] && echo OFF || echo ON)")
build "$folder" all "${options[@]}"

log=$POLYAK_ROOT/build/$folder/ctest.log
status=0
ctest --test-dir "$POLYAK_ROOT/build/$folder" -j "${CTEST_PARALLEL_LEVEL:-2}" --output-on-failure --no-tests=error \
  ${filter:+-R "$filter"} 2>&1 | tee "$log" || status=$?
grep -E 'tests passed|No tests were found' "$log" || say "ctest gave no count"
exit $status
