# Runs a test where it can do no harm: `unshare` has made the mount and PID namespaces, this makes every mount in them
# read-only but /proc, puts fresh tmpfs mounts over the places for temporary files and over /run (a broker of this machine
# is out of sight, and so is every other service's socket), proves all that, and only then runs the command. The shell stays
# init of the PID namespace: what the test leaves running is reaped by it, and dies with it.
#
# usage: sh -c "$(cat contain.sh)" contain TREE TARGET COMMAND…
# TREE and TARGET (the source tree, cargo's target directory) stay visible, read-only, wherever they are.
# CONTAIN_KEEP names a directory that stays writable: for benchmarks, which need this machine's own file system.
set -eu
exec 2>&1
refuse() { echo "contain: $*"; exit 70; }
[ "$$" = 1 ] || refuse "not in a PID namespace of its own"
tree=$1 target=$2
shift 2
fresh="/tmp /var/tmp /dev/shm /run"
exec 3<"$tree" 4<"$target"
keep=${CONTAIN_KEEP-}
[ -z "$keep" ] || mount -n --bind "$keep" "$keep" || refuse "$keep can't be kept"

# Per-mount flags are repeated: in a user namespace a mount keeps those it came with, or it is not remounted at all.
# What can't be remounted (hidden below another mount, say) is found by the proof if it matters.
points() { cut -d' ' -f5,6 /proc/self/mountinfo; }
points | while read -r point flags; do
  point=$(printf '%b' "$point")
  [ "$point" = /proc ] || [ "$point" = "$keep" ] || mount -n -o "remount,bind,$flags,ro" "$point" 2>/dev/null || true
done

writable() {
  [ -d "$1" ] && (: >"$1/.contain-probe") 2>/dev/null || return 1
  rm -f "$1/.contain-probe"
}
prove() {
  for place in "$@"; do ! writable "$place" || refuse "$place can still be written"; done
}
prove / /etc /usr /usr/local /bin /var /root /home /opt /srv /mnt /dev /sys $fresh "$tree" "$target"
points | while read -r point _; do
  point=$(printf '%b' "$point")
  case $point in /proc | /proc/* | "$keep") ;; *) prove "$point" ;; esac
done

for place in $fresh; do
  [ -d "$place" ] && [ ! -L "$place" ] || continue
  case $place in /run) mode=755 ;; *) mode=1777 ;; esac
  mount -n -t tmpfs -o "mode=$mode,size=2g" tmpfs "$place" || refuse "no tmpfs on $place"
  writable "$place" || refuse "$place was to be writable, and is not"
done

# A tree inside one of the fresh places is hidden now; the descriptor still knows it. The copy of a read-only mount is one.
show() {
  case $2/ in /tmp/* | /var/tmp/* | /dev/shm/* | /run/*) ;; *) return 0 ;; esac
  mkdir -p "$2"
  mount -n --no-canonicalize --bind "/proc/self/fd/$1" "$2" || refuse "$2 can't be shown"
}
show 3 "$tree"
show 4 "$target"
exec 3<&- 4<&-
prove "$tree" "$target"

cd "$tree"
status=0
"$@" || status=$?
exit "$status"
