# SPDX-License-Identifier: Apache-2.0
# What a build needs. quickstart.sh, test.sh and .ci/run source this file; it calls apt and pip only for what is
# missing, so that a second run costs nothing.
# shellcheck shell=bash disable=SC2034

POLYAK_ROOT=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
POLYAK_PIP_TORCH=2.15.0
POLYAK_PIP_PACKAGES=(numpy==2.2.6 pillow==13.0.0)
# What the tests against other libraries need: MMEngine, mmpretrain, timm, Lightning, safetensors, and what those import;
# and the averages of ema-pytorch, diffusers, torch-ema, k-diffusion, TRL and MMagic; and TensorBoard's reader.
# Without their dependencies, which would bring matplotlib and a second OpenCV. And torchvision, of the version that the wheel takes:
# 0.29.2 for the pinned one.
POLYAK_PIP_TORCHVISION=0.29.2
POLYAK_MMENGINE_PACKAGES=(mmengine==0.10.7 mmpretrain==1.2.0 mmcv-lite==2.2.0
  opencv-python-headless==4.12.0.88 addict==2.4.0 einops==0.8.2 importlib_metadata==8.5.0 mat4py==0.6.0
  model-index==0.1.11 Markdown==3.11.3 ordered-set==4.1.0 packaging==26.4 platformdirs==4.14.8 PyYAML==6.0.4
  rich==15.0.0 safetensors==0.8.0 termcolor==3.3.0 yapf==0.43.0 zipp==3.20.2
  timm==1.0.31 lightning==2.6.6 lightning-utilities==0.15.3 torchmetrics==1.9.0 tqdm==4.70.1
  ema-pytorch==0.8.3 diffusers==0.42.1 torch-ema==0.3 k-diffusion==0.1.1.post1 trl==1.16.0 mmagic==1.2.0
  tensorboard==2.21.0 protobuf==7.36.2 absl-py==2.5.1)

# Clients that docs/examples sends scalars.json to; with their dependencies, since they load most of them.
POLYAK_CLIENT_PACKAGES=(wandb==0.31.0 mlflow-skinny==3.17.2)
# What the site of the documentation is made with: mkdocs-material and the part of its dependencies that a build imports.
POLYAK_SITE_PACKAGES=(mkdocs-material==9.8.2 mkdocs==1.6.1 Markdown==3.11.3 pymdown-extensions==13.1.2 Pygments==2.21.0
  Jinja2==3.1.6 MarkupSafe==3.0.4 click==8.5.1 PyYAML==6.0.4 pyyaml_env_tag==1.1 mergedeep==1.3.4 mkdocs-get-deps==0.2.2
  mkdocs-material-extensions==1.3.1 packaging==26.4 paginate==0.5.7 pathspec==1.1.1 platformdirs==4.14.8 backrefs==8.3.1
  colorama==0.4.6)

POLYAK_BUILD_PACKAGES=(g++ cmake ninja-build ccache libfmt-dev libyaml-cpp-dev libcli11-dev libspdlog-dev
  nlohmann-json3-dev zlib1g-dev libjpeg-dev libpng-dev libgloo-dev)
POLYAK_TEST_PACKAGES=(libgtest-dev libgmock-dev libbenchmark-dev python3 python3-numpy python3-pil openmpi-bin iproute2
  bash zsh fish groff-base
  python3-jsonschema python3-yaml dpkg-dev file pkg-config
  dataset-fashion-mnist)
POLYAK_CI_PACKAGES=(clang clang-tidy clang-format doxygen python3-venv)

say() { printf '%s\n' "$*"; }
stop() { printf '%s: %s\n' "${0##*/}" "$1" >&2; exit "${2:-1}"; }
usage_error() { stop "$1 (--help says what it takes)" 2; }

# need_value OPTION COUNT: an option that takes a value has one.
need_value() { (( $2 >= 2 )) || usage_error "$1 needs a value"; }

# install_packages NAME...: through apt, those that are not there.
install_packages() {
  if ! command -v apt-get >/dev/null; then
    say "No apt here. Debian calls what is needed: $*"
    return
  fi
  local name missing=()
  for name; do
    [[ $(dpkg-query -W -f '${db:Status-Status} ' "$name" 2>/dev/null) == *"installed "* ]] || missing+=("$name")
  done
  (( ${#missing[@]} )) || return 0

  local as_root=()
  if (( EUID != 0 )); then
    if command -v sudo >/dev/null && { sudo -n true 2>/dev/null || [[ -t 0 ]]; }; then
      as_root=(sudo)
    else
      stop "packages are missing and only root may install them. Run this, then start again:
  sudo apt-get update && sudo apt-get install -y ${missing[*]}"
    fi
  fi
  say "Installing: ${missing[*]}"
  if ! apt-cache show "${missing[@]}" >/dev/null 2>&1; then
    "${as_root[@]}" apt-get update -qq
  fi
  local install=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "${missing[@]}")
  # Lists that are out of date name files that are gone: fetch them anew and try once more.
  "${install[@]}" >/dev/null || { "${as_root[@]}" apt-get update -qq && "${install[@]}"; } ||
    stop "apt-get could not install: ${missing[*]}"
}

# wheel_version SOURCE: the version of PyTorch that `pip` or `pip==VERSION` stands for.
wheel_version() {
  case $1 in
    pip) echo "$POLYAK_PIP_TORCH" ;;
    *)
      [[ $1 =~ ^pip==([0-9]+(\.[0-9]+)+)$ ]] ||
        usage_error "--torch pip==VERSION takes a version such as 2.11.0, not '${1#pip==}'"
      echo "${BASH_REMATCH[1]}" ;;
  esac
}

# wheel_environment VERSION: its virtual environment, below build/.
wheel_environment() {
  if [[ $1 == "$POLYAK_PIP_TORCH" ]]; then echo python; else echo "python-$1"; fi
}

# install_wheel VERSION: LibTorch and Python's torch of that wheel, in a virtual environment of this project's own.
install_wheel() {
  local name venv packages=("torch==$1" "${POLYAK_PIP_PACKAGES[@]}")
  name=$(wheel_environment "$1")
  venv=$POLYAK_ROOT/build/$name
  local stamp="$venv/installed: ${packages[*]}"
  if [[ ! -e $stamp ]]; then
    say "Installing ${packages[*]} into build/$name (several GB, about a minute)"
    rm -f "$venv"/installed:*
    [[ -x $venv/bin/pip ]] || python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check "${packages[@]}" ||
      stop "pip could not install ${packages[*]}"
    : > "$stamp"
  fi
}

# install_mmengine VERSION: into that wheel's environment, for tests.
install_mmengine() {
  local name venv stamp vision=torchvision
  name=$(wheel_environment "$1")
  venv=$POLYAK_ROOT/build/$name
  [[ $1 != "$POLYAK_PIP_TORCH" ]] || vision+="==$POLYAK_PIP_TORCHVISION"
  stamp="$venv/mmengine: $(printf '%s ' "$vision" "${POLYAK_MMENGINE_PACKAGES[@]}" "${POLYAK_CLIENT_PACKAGES[@]}" | cksum | cut -d ' ' -f 1)"
  [[ ! -e $stamp ]] || return 0
  say "Installing ${POLYAK_MMENGINE_PACKAGES[*]:0:2} and what they import into build/$name (400 MB, 40 seconds)"
  rm -f "$venv"/mmengine:*
  "$venv/bin/pip" install --quiet --disable-pip-version-check --no-deps "${POLYAK_MMENGINE_PACKAGES[@]}" ||
    stop "pip could not install ${POLYAK_MMENGINE_PACKAGES[*]}"
  # What else it depends on is there: pip may choose the version, but change none of the others.
  "$venv/bin/pip" install --quiet --disable-pip-version-check \
    --constraint <(printf '%s\n' "torch==$1" "${POLYAK_PIP_PACKAGES[@]}") "$vision" "${POLYAK_CLIENT_PACKAGES[@]}" ||
    stop "pip could not install $vision and ${POLYAK_CLIENT_PACKAGES[*]} for torch==$1"
  : > "$stamp"
}

# install_site: what builds the site, in an environment of its own.
install_site() {
  local venv=$POLYAK_ROOT/build/site-env stamp
  stamp="$venv/site: $(printf '%s ' "${POLYAK_SITE_PACKAGES[@]}" | cksum | cut -d ' ' -f 1)"
  [[ ! -e $stamp ]] || return 0
  say "Installing ${POLYAK_SITE_PACKAGES[0]} into build/site-env (110 MB, 15 seconds)"
  rm -f "$venv"/site:*
  [[ -x $venv/bin/pip ]] || python3 -m venv "$venv"
  "$venv/bin/pip" install --quiet --disable-pip-version-check --no-deps --no-compile "${POLYAK_SITE_PACKAGES[@]}" ||
    stop "pip could not install ${POLYAK_SITE_PACKAGES[*]}"
  : > "$stamp"
}

# torch_packages SOURCE: the packages that this LibTorch takes.
torch_packages() {
  case $1 in
    system) echo libtorch-dev ;;
    pip) echo python3 python3-venv ;;
    pip==*) wheel_version "$1" >/dev/null && echo python3 python3-venv ;;
    *) [[ -d $1 ]] || usage_error "--torch takes system, pip, pip==VERSION or a folder, and '$1' is none of them" ;;
  esac
}

# choose_torch SOURCE: checks SOURCE, installs it where it can, and sets
#   torch_cmake   the value of -DPOLYAK_TORCH
#   torch_name    its part in the name of the build folder
#   torch_python  an interpreter whose torch is the same version, or nothing
choose_torch() {
  case $1 in
    system)
      torch_cmake=system torch_name=system torch_python=/usr/bin/python3 ;;
    pip|pip==*)
      local version
      version=$(wheel_version "$1") || exit
      install_wheel "$version"
      torch_name=pip
      [[ $version == "$POLYAK_PIP_TORCH" ]] || torch_name=pip-$version
      torch_python=$POLYAK_ROOT/build/$(wheel_environment "$version")/bin/python3
      torch_cmake=$("$torch_python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/torch ;;
    *)
      torch_cmake=$(cd -- "$1" && pwd) torch_python=''
      [[ $torch_cmake == */share/cmake/Torch ]] && torch_cmake=${torch_cmake%/share/cmake/Torch}
      [[ -d $torch_cmake/torch/lib ]] && torch_cmake=$torch_cmake/torch
      [[ -d $torch_cmake/include/ATen ]] || usage_error "no LibTorch in '$1': include/ATen is not there"
      torch_name=folder-$(printf '%s' "$torch_cmake" | cksum | cut -d ' ' -f 1)
      # A wheel in a virtual environment: lib/pythonX.Y/site-packages/torch.
      if [[ $torch_cmake == */site-packages/torch && -x $torch_cmake/../../../../bin/python3 ]]; then
        torch_python=$(cd -- "$torch_cmake/../../../../bin" && pwd)/python3
      fi ;;
  esac
  torch_python=${POLYAK_PYTHON:-$torch_python}
}

# build FOLDER TARGETS CMAKE_OPTION...: TARGETS is one word or several, `all` for everything.
build() {
  local folder=$POLYAK_ROOT/build/$1 targets=$2
  shift 2
  [[ -e $folder/build.ninja ]] || say "Building in ${folder#"$POLYAK_ROOT"/}; the first time takes minutes"
  mkdir -p "$folder"
  # LibTorch's headers take seconds in each file, precompiled as well: so twelve files are compiled at a time.
  cmake -S "$POLYAK_ROOT" -B "$folder" -G Ninja -DPOLYAK_TORCH="$torch_cmake" \
    -DCMAKE_UNITY_BUILD=ON -DCMAKE_UNITY_BUILD_BATCH_SIZE=12 "$@" >"$folder/configure.log" 2>&1 ||
    { cat "$folder/configure.log" >&2; stop "CMake stopped: see above"; }
  # shellcheck disable=SC2086
  cmake --build "$folder" --parallel "${CMAKE_BUILD_PARALLEL_LEVEL:-$(nproc)}" --target $targets
}
