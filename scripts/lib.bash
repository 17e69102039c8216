# lib.bash: what quickstart and test have in common. Sourced, not run.
# shellcheck shell=bash

root=$(dirname "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")")
self=$(basename "$0")
readonly root self

die() {
  echo "$self: $*" >&2
  exit 2
}

heading() { printf '\n== %s\n' "$*"; }

# need_machine MIB: what neither apt nor the build could mend, said before anything is changed.
need_machine() {
  ((EUID == 0)) || die "needs root, for packages, namespaces and mounts: sudo scripts/$self"
  [[ -c /dev/fuse ]] || modprobe fuse 2>/dev/null || true
  [[ -c /dev/fuse ]] ||
    die "needs /dev/fuse: run 'modprobe fuse', or start the container with --device /dev/fuse"
  need_space "$root" 2048 "to build"
  need_space /var/tmp "$1" "for the throw-away volume"
}

# need_space DIRECTORY MIB WHY
need_space() {
  local free
  free=$(($(stat --file-system --format='%a * %S' "$1") >> 20))
  ((free >= $2)) || die "needs $2 MiB in $1 $3, but only $free MiB are free"
}

# build PRESET TARGET…: every target if none is given.
build() {
  local preset=$1
  shift
  (
    cd "$root" || exit
    # Ninja configures again by itself when a CMakeLists.txt has changed.
    [[ -e build/$preset/build.ninja ]] || cmake --preset "$preset" >/dev/null || exit
    cmake --build --preset "$preset" ${1:+--target "$@"}
  )
}
