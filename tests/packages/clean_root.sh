#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The Debian packages in a clean Debian 12: installs them there, trains, builds two programs, and removes them again.
# shellcheck disable=SC2016
set -euo pipefail

usage() {
  cat <<'TEXT'
clean_root.sh FOLDER [ROOT]

FOLDER has the packages that `cpack -G DEB` made. ROOT becomes a Debian 12, made by debootstrap; without it, a folder
that is deleted at the end. It needs root, debootstrap, and Debian's archive (DEBIAN_MIRROR names another), about 3 GB
and twelve minutes on two busy cores: too long for CI.
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
  chmod 755 "$root"  # apt fetches as a user of its own
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

# apt ARGUMENT...: apt-get, whose output is shown where it fails.
apt() {
  inside sh -c 'cd /polyak-test && exec apt-get -qq "$@" >apt.log 2>&1' apt "$@" ||
    { tail -n 20 "$root/polyak-test/apt.log" >&2; fail "apt-get $1 failed"; }
}

# dependencies DEB...: what they declare, but not each other.
dependencies() {
  local deb
  for deb; do
    dpkg-deb -f "$debs"/"$deb"_*.deb Depends | sed -E 's/, */\n/g' | grep -v polyak
  done | sort -u | paste -s -d ,
}

# installs DEB...: apt finds nothing missing beside these.
installs() {
  local deb names=()
  for deb; do names+=("$(basename -- "$debs"/"$deb"_*.deb)"); done
  local new
  new=$(inside sh -c 'cd /polyak-test && apt-get install --no-install-recommends -s "$@"' sh "${names[@]/#/./}" | grep -c '^Inst ')
  (( new == $# )) || fail "apt would install $new packages instead of $#"
  apt install --no-install-recommends "${names[@]/#/./}"
}

# purge PACKAGE...: they go, and the files are those of the list $1.
purge() {
  local before=$1
  shift
  apt purge "$@"
  files >"$before.after"
  diff "$before" "$before.after" || fail "files differ from those of before"
  if inside dpkg -l | grep -i polyak; then fail "dpkg still lists a package"; fi
  echo "removed: the $(wc -l <"$before") files and folders are those of before"
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
printf '%d packages, %d files and folders\n' "$(inside dpkg-query -W | wc -l)" "$(files | wc -l)"

step "what polyak and polyak-plugins depend on, from Debian's archive"
dependencies polyak polyak-plugins
apt satisfy --no-install-recommends "$(dependencies polyak polyak-plugins)"
apt install --no-install-recommends dataset-fashion-mnist
files >"$root/polyak-test/without-runtime"

step "apt-get install ./polyak_*.deb, without its plugins"
installs polyak
inside polyak --version
{ inside polyak list hook 2>&1 || true; } | grep 'the package polyak-plugins' || fail "the command does not say which package is missing"

step "apt-get install ./polyak-plugins_*.deb"
installs polyak-plugins
if inside sh -c 'ldd /usr/bin/polyak $(dpkg -L polyak polyak-plugins | grep [.]so)' | grep 'not found'; then
  fail "a library is missing"
fi

step "polyak init, polyak train with 2,000 images"
inside sh -euc 'cd /polyak-test
  polyak init --from fashion-mnist -o first.yaml
  polyak check --static first.yaml >/dev/null
  polyak train first.yaml --cfg-options train_dataloader.dataset.limit=2000 >train.log 2>&1 || { tail train.log; exit 1; }
  grep "^|" train.log
  test -s work_dirs/first/epoch_3.pth
  polyak inspect work_dirs/first/epoch_3.pth | head -n 4
  polyak train /usr/share/polyak/configs/fashion_mnist_cosine_ema.yaml --work-dir shipped --cfg-options \
    train_dataloader.dataset.limit=2000 train_cfg.max_epochs=1 >shipped.log 2>&1 || { tail shipped.log; exit 1; }
  grep "^|" shipped.log'

step "apt-get purge"
purge "$root/polyak-test/without-runtime" polyak polyak-plugins

step "what libpolyak-dev depends on, and a compiler"
dependencies libpolyak-dev
apt satisfy --no-install-recommends "$(dependencies libpolyak-dev)"
apt install --no-install-recommends g++ cmake make pkg-config
files >"$root/polyak-test/without-dev"
installs polyak polyak-plugins libpolyak-dev

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

step "apt-get purge"
purge "$root/polyak-test/without-dev" polyak polyak-plugins libpolyak-dev
step "done"
