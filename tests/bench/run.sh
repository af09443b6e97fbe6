#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Measures everything that docs/performance.md says, and writes its tables.
set -euo pipefail
# shellcheck source=../../.ci/setup.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/../../.ci/setup.sh"
POLYAK_PEERS=(timm==1.0.31 mmengine==0.10.7 ema-pytorch==0.8.3)

usage() {
  cat <<'TEXT'
run.sh [--torch system|pip|pip==VERSION|FOLDER]... [--rounds N] [--filter REGEX] [--no-peers]

Builds polyak_bench, runs it, leaves build/bench/*.json and writes the tables of docs/performance.md.

  --torch SOURCE   as test.sh; may be given several times (the default: system and pip)
  --rounds N       rounds of each race (21)
  --filter REGEX   only benchmarks whose name matches; the tables then hold what there is
  --no-peers       without Python's averages, which otherwise race in Python's torch where it is 2.0 or newer
TEXT
}

sources=() rounds=21 filter=. peers=yes
while (( $# )); do
  case $1 in
    -h|--help) usage; exit ;;
    --torch) need_value "$1" $#; sources+=("$2"); shift 2 ;;
    --rounds) need_value "$1" $#; rounds=$2; shift 2 ;;
    --filter) need_value "$1" $#; filter=$2; shift 2 ;;
    --no-peers) peers=no; shift ;;
    *) usage_error "unknown option $1" ;;
  esac
done
(( ${#sources[@]} )) || sources=(system pip)

out=$POLYAK_ROOT/build/bench here=$POLYAK_ROOT/tests/bench results=()
mkdir -p "$out"

# measure NAME OPTION...: one run of the program into NAME.json.
measure() {
  local name=$1
  shift
  "$POLYAK_ROOT/build/$folder/bin/polyak_bench" --rounds="$rounds" "$@" --benchmark_out="$out/$name.json" \
    --benchmark_out_format=json
  results+=("$out/$name.json")
}

# Build first: nothing may run beside a measurement.
for torch in "${sources[@]}"; do
  # shellcheck disable=SC2046
  install_packages "${POLYAK_BUILD_PACKAGES[@]}" "${POLYAK_TEST_PACKAGES[@]}" $(torch_packages "$torch")
  choose_torch "$torch"
  build "release-$torch_name" 'polyak_bench polyak_bench_peer' -DCMAKE_BUILD_TYPE=Release -DPOLYAK_BUILD_TESTS=ON \
    -DPOLYAK_BENCHMARKS=ON
done

for torch in "${sources[@]}"; do
  choose_torch "$torch"
  folder=release-$torch_name
  measure "$torch_name" --benchmark_filter="$filter"
  if [[ $filter == . ]]; then
    measure "$torch_name-cold" --cold --benchmark_filter='update/resnet50|several'
  fi
  if [[ $peers == yes && -n $torch_python ]] &&
     "$torch_python" -c 'import sys, torch; sys.exit(int(torch.__version__.split(".")[0]) < 2)' 2>/dev/null; then
    version=$("$torch_python" -c 'import torch; print(torch.__version__.split("+")[0])')
    printf '%s\n' "torch==$version" "${POLYAK_PIP_PACKAGES[@]}" > "$out/constraints.txt"
    "$torch_python" -m pip install --quiet --disable-pip-version-check -c "$out/constraints.txt" "${POLYAK_PEERS[@]}"
    "$torch_python" "$here/peers.py" "$POLYAK_ROOT/build/$folder/lib/libpolyak_bench_peer.so" \
      --rounds "$rounds" --out "$out/peers.json"
    results+=("$out/peers.json")
  fi
done

python3 "$here/table.py" "$POLYAK_ROOT/docs/performance.md" "${results[@]}"
say "docs/performance.md holds what ${results[*]#"$POLYAK_ROOT"/} say"
