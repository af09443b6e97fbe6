#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Builds the fuzz targets with clang in build/fuzz and runs them: tests/fuzz/fuzz.sh [OPTION...] [TARGET...]
#   --runs N      executions of each target; 0, the default: no limit but the time
#   --seconds S   time of each target; the default is 60
#   --jobs N      processes of each target; the default is 1
#   --torch PATH  LibTorch as CMake's POLYAK_TORCH takes it; the default is system
# Targets: all of them unless some are named. What a target found earlier in build/fuzz/corpus is kept and goes on.
# A finding ends its target, and its input is in build/fuzz/findings/TARGET: to see it again, give that file to
# build/fuzz/bin/fuzz_TARGET. The exit status is 1 if there is any.
set -uo pipefail
# shellcheck source=.ci/setup.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/../../.ci/setup.sh"

runs=0 seconds=60 jobs=1 torch=system targets=()
while (( $# )); do
  case $1 in
    --runs|--seconds|--jobs|--torch) need_value "$1" $#; printf -v "${1#--}" '%s' "$2"; shift ;;
    -h|--help) sed -n 's/^# \{0,1\}//; 3,10p' "${BASH_SOURCE[0]}"; exit ;;
    -*) usage_error "no option is called '$1'" ;;
    *) targets+=("$1") ;;
  esac
  shift
done
for number in runs seconds jobs; do
  [[ ${!number} =~ ^[0-9]+$ ]] || usage_error "--$number takes a number, not '${!number}'"
done
all_targets=(pickle pth legacy safetensors safetensors_index config override dataset image)
(( ${#targets[@]} )) || targets=("${all_targets[@]}")
for target in "${targets[@]}"; do
  [[ " ${all_targets[*]} " == *" $target "* ]] ||
    usage_error "no target is called '$target'; there are: ${all_targets[*]}"
done
command -v clang++ >/dev/null || stop "clang++ is missing: on Debian, the package clang"

folder=$POLYAK_ROOT/build/fuzz
mkdir -p "$folder"
cmake -S "$POLYAK_ROOT" -B "$folder" -G Ninja -DCMAKE_CXX_COMPILER=clang++ -DPOLYAK_FUZZERS=ON -DPOLYAK_CUDA=OFF -DPOLYAK_DISTRIBUTED=OFF \
  -DPOLYAK_BENCHMARKS=OFF -DPOLYAK_TORCH="$torch" -DCMAKE_UNITY_BUILD=ON -DCMAKE_UNITY_BUILD_BATCH_SIZE=12 \
  >"$folder/configure.log" 2>&1 || { cat "$folder/configure.log" >&2; stop "CMake stopped: see above"; }
start=$SECONDS
cmake --build "$folder" --parallel "${CMAKE_BUILD_PARALLEL_LEVEL:-$(nproc)}" --target "${targets[@]/#/fuzz_}" \
  >"$folder/build.log" 2>&1 || { tail -n 50 "$folder/build.log" >&2; stop "the fuzz targets cannot be built: see above"; }
say "built in $((SECONDS - start)) s"

# Memory for LibTorch, 200 MB, and for what an input of at most 16 KiB may need; LibTorch 1.13's zip reader loses its
# memory when it refuses a file; libjpeg and libpng jump over destructors, which sanitizers do not follow.
# Freed memory that the sanitizer keeps back is not that of an input, and neither is what it notes of each new call
# stack: a parser that recurses has no end of them.
export ASAN_OPTIONS="detect_leaks=0:quarantine_size_mb=64:malloc_context_size=6:allocator_may_return_null=0:${ASAN_OPTIONS:-}"
export UBSAN_OPTIONS="print_stacktrace=1:halt_on_error=1:${UBSAN_OPTIONS:-}"
status=0
for target in "${targets[@]}"; do
  corpus=$folder/corpus/$target findings=$folder/findings/$target log=$folder/$target.log
  mkdir -p "$corpus" "$findings"
  seeds=$POLYAK_ROOT/tests/fuzz/corpus/$target
  options=(-rss_limit_mb=512 -timeout=10 -max_len=16384 -print_final_stats=1 -artifact_prefix="$findings/")
  (( runs == 0 )) || options+=(-runs="$runs")
  (( seconds == 0 )) || options+=(-max_total_time="$seconds")
  (( jobs <= 1 )) || options+=(-fork="$jobs")
  [[ ! -e $POLYAK_ROOT/tests/fuzz/$target.dict ]] || options+=(-dict="$POLYAK_ROOT/tests/fuzz/$target.dict")
  start=$SECONDS
  "$folder/bin/fuzz_$target" "${options[@]}" "$corpus" "$seeds" >"$log" 2>&1 && found=0 || found=1
  executions=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log" | tail -n 1)
  [[ -n $executions ]] || executions=$(sed -n 's/^#\([0-9]*\).*/\1/p' "$log" | tail -n 1)
  covered=$(sed -n 's/.* cov: \([0-9]*\) .*/\1/p' "$log" | tail -n 1)
  say "$(printf '%-17s %10s executions in %d s, %s edges, %d findings' "$target" "${executions:-0}" \
    $((SECONDS - start)) "${covered:-0}" "$found")"
  if (( found )); then
    status=1
    grep -m 5 -E '^(finding:|==[0-9]+==|SUMMARY|.*runtime error:|Test unit written)' "$log" | sed 's/^/    /'
    grep -q . "$log" || say "    it printed nothing"
  fi
done
exit $status
