#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# From a clone to a trained, averaged model.
set -euo pipefail
# shellcheck source=.ci/setup.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/.ci/setup.sh"

usage() {
  cat <<'TEXT'
quickstart.sh [--torch system|pip|pip==VERSION|FOLDER] [CONFIG [OPTION ...]]

Installs what is missing, builds, and runs `polyak train CONFIG`. Without CONFIG it trains on Fashion-MNIST with
CosineEMA and prints how the averaged and the raw weights do. OPTIONs go to `polyak train`.

  --torch system         LibTorch of the distribution (libtorch-dev); the default
  --torch pip            the wheel of PyPI, 2.15.0, in a virtual environment below build/
  --torch pip==VERSION   another version of that wheel, 2.12.0 say, in an environment of its own
  --torch FOLDER         another LibTorch: its folder, or Python's site-packages/torch
TEXT
}

torch=system
while (( $# )); do
  case $1 in
    -h|--help) usage; exit ;;
    --torch) need_value "$1" $#; torch=$2; shift 2 ;;
    --torch=*) torch=${1#*=}; shift ;;
    -*) usage_error "unknown option $1" ;;
    *) break ;;
  esac
done
config=${1:-$POLYAK_ROOT/configs/fashion_mnist_cosine_ema.yaml}
(( $# )) && shift
[[ -f $config ]] || usage_error "no such config: $config"

torch_packages=$(torch_packages "$torch")
# shellcheck disable=SC2086
install_packages "${POLYAK_BUILD_PACKAGES[@]}" dataset-fashion-mnist $torch_packages
choose_torch "$torch"
build "release-$torch_name" all -DCMAKE_BUILD_TYPE=Release -DPOLYAK_BUILD_TESTS=OFF
exec "$POLYAK_ROOT/build/release-$torch_name/bin/polyak" train "$config" "$@"
