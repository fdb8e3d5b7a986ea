#!/bin/sh
# What `cargo xtask test` runs test programs by. The examples of the documentation use a real broker, so they run contained
# (contain.sh), with the broker of this build; every other program contains itself.
set -eu
unset TMPDIR
case $1 in */rustdoctest*) ;; *) exec "$@" ;; esac

tree=$(cd "$(dirname "$0")/../.." && pwd)
set -- --mount --propagation private --pid --fork --kill-child --mount-proc \
  sh -c "$(cat "$tree/tests/harness/contain.sh")" contain "$tree" "$SCRATCH_TARGET" \
  env -u XDG_RUNTIME_DIR "SCRATCHD_BIN=$SCRATCH_TARGET/debug/scratch" "$@"
[ "$(id -u)" = 0 ] || set -- --user --map-root-user "$@"
if ! unshare --user --map-root-user --mount --pid --fork true 2>/dev/null; then
  echo "the examples of the documentation: no namespaces here" >>"$SCRATCH_TARGET/left-out.txt"
  exit 0
fi
exec unshare "$@"
