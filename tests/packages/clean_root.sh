#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The Debian packages in a clean Debian 12: installs them there, trains, builds two programs, and removes them again.
set -euo pipefail

usage() {
  cat <<'TEXT'
clean_root.sh FOLDER [ROOT]

FOLDER has the packages that `cpack -G DEB` made. ROOT becomes a Debian 12, made by debootstrap; without it, a folder
that is deleted at the end. It needs root, debootstrap, and Debian's archive (DEBIAN_MIRROR names another), about 3 GB
and ten minutes: too long for CI.
TEXT
}

case ${1:-} in -h|--help) usage; exit ;; '') usage >&2; exit 2 ;; esac
here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
source_root=$(cd -- "$here/../.." && pwd)
debs=$(cd -- "$1" && pwd)
mirror=${DEBIAN_MIRROR:-http://deb.debian.org/debian}
(( EUID == 0 )) || { echo "clean_root.sh: needs root, for debootstrap and chroot" >&2; exit 1; }

# Mounts and processes end with this shell.
if [[ -z ${POLYAK_CLEAN_ROOT_INSIDE:-} ]]; then
  POLYAK_CLEAN_ROOT_INSIDE=1 exec unshare --mount --pid --fork --kill-child -- "$0" "$@"
fi
mount --make-rprivate /

root=${2:-}
if [[ -z $root ]]; then
  root=$(mktemp -d)
  trap 'umount "$root/proc" 2>/dev/null; rm -rf --one-file-system "$root"' EXIT
fi
mkdir -p "$root"
root=$(cd -- "$root" && pwd)

begun=$SECONDS
step() { printf '== %s (after %d s)\n' "$1" $((SECONDS - begun)); }
fail() { printf 'clean_root.sh: %s\n' "$1" >&2; exit 1; }
inside() {
  chroot "$root" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C DEBIAN_FRONTEND=noninteractive "$@"
}

# files: every file and folder of the root. Not what apt and dpkg keep for themselves (lists, caches, logs, their database,
# the cache of ldconfig), nor this script's own folder.
files() {
  (cd -- "$root" && find . -xdev \( -path ./polyak-test -o -path ./proc -o -path ./sys -o -path ./dev -o -path ./tmp \
    -o -path ./var/lib/apt -o -path ./var/cache/apt -o -path ./var/log -o -path ./var/lib/dpkg -o -path ./var/cache/debconf \
    -o -path ./var/cache/ldconfig \) -prune -o -print | sort)
}

step "debootstrap of Debian 12"
[[ -e $root/etc/debian_version ]] || debootstrap --variant=minbase bookworm "$root" "$mirror" >"$root.log" 2>&1 ||
  { tail -n 20 "$root.log" >&2; fail "debootstrap failed"; }
rm -f "$root.log"
mount -t proc proc "$root/proc"
cp /etc/resolv.conf /etc/hosts "$root/etc/"  # names of hosts are those of this machine
mkdir -p "$root/polyak-test"
cp -- "$debs"/polyak_*.deb "$debs"/polyak-plugins_*.deb "$debs"/libpolyak-dev_*.deb "$root/polyak-test"
cp -r -- "$source_root/tests/consumer/project" "$source_root/tests/consumer/pkg_config" "$root/polyak-test"
inside apt-get update -qq
files >"$root/polyak-test/before"

step "install the command: apt-get install ./polyak_*.deb ./polyak-plugins_*.deb dataset-fashion-mnist"
inside sh -c 'cd /polyak-test && apt-get install -qq ./polyak_*.deb ./polyak-plugins_*.deb dataset-fashion-mnist >apt.log 2>&1' ||
  { tail -n 20 "$root/polyak-test/apt.log" >&2; fail "apt-get install failed"; }
inside polyak --version
inside sh -c 'ldd /usr/bin/polyak /usr/lib/*/libpolyak*.so* /usr/lib/libpolyak*.so* 2>/dev/null | grep "not found"' &&
  fail "a library is missing"

step "train: polyak init, polyak train with 2,000 images"
inside sh -euc 'cd /polyak-test
  polyak init --from fashion-mnist -o first.yaml
  polyak check --static first.yaml >/dev/null
  polyak train first.yaml --cfg-options train_dataloader.dataset.limit=2000 >train.log 2>&1 || { tail train.log; exit 1; }
  grep -E "accuracy" train.log | tail -n 2
  test -s work_dirs/first/epoch_3.pth
  polyak inspect work_dirs/first/epoch_3.pth | head -n 4
  polyak train /usr/share/polyak/configs/fashion_mnist_cosine_ema.yaml --work-dir shipped --cfg-options \
    train_dataloader.dataset.limit=2000 train_cfg.max_epochs=1 >shipped.log 2>&1 || { tail shipped.log; exit 1; }'

step "install the headers: apt-get install ./libpolyak-dev_*.deb g++ cmake pkg-config"
inside sh -c 'cd /polyak-test && apt-get install -qq --no-install-recommends ./libpolyak-dev_*.deb g++ cmake make pkg-config >>apt.log 2>&1' ||
  { tail -n 20 "$root/polyak-test/apt.log" >&2; fail "apt-get install failed"; }

step "a program by find_package"
inside sh -euc 'cd /polyak-test
  cmake -S project -B built >cmake.log 2>&1 || { cat cmake.log; exit 1; }
  cmake --build built >>cmake.log 2>&1 || { cat cmake.log; exit 1; }
  built/consumer'

step "a program by pkg-config"
inside sh -euc 'cd /polyak-test
  pkg-config --cflags --libs polyak
  g++ -o averaged pkg_config/main.cpp $(pkg-config --cflags --libs polyak)
  ./averaged'

step "remove the packages: apt-get purge"
packages="polyak polyak-plugins libpolyak-dev"
inside sh -c "dpkg -L $packages" | sort -u >"$root/polyak-test/owned"
# shellcheck disable=SC2086
inside apt-get purge -qq $packages >>"$root/polyak-test/apt.log" 2>&1
left=$(cd -- "$root" && find . -xdev -path ./polyak-test -prune -o -iname '*polyak*' -print)
[[ -z $left ]] || fail "left behind by name: $left"
while read -r file; do
  [[ -d $root$file || ( ! -e $root$file && ! -L $root$file ) ]] || fail "left behind: $file"
done <"$root/polyak-test/owned"
inside dpkg -l 2>/dev/null | grep -i polyak && fail "dpkg still lists a package"

step "and what apt installed for them: apt-get autoremove"
# The script asked for these by name, so that apt does not take them for dependencies.
inside apt-mark auto dataset-fashion-mnist g++ cmake make pkg-config >/dev/null
inside apt-get autoremove --purge -qq >>"$root/polyak-test/apt.log" 2>&1
files >"$root/polyak-test/after"
if diff "$root/polyak-test/before" "$root/polyak-test/after" >"$root/polyak-test/difference"; then
  echo "the $(wc -l <"$root/polyak-test/before") files and folders are those of before"
else
  cat "$root/polyak-test/difference"
  fail "files differ from those of before"
fi
step "done"
