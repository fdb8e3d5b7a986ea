# Run by contained() in a mount namespace of its own: makes everything read-only but fresh tmpfs mounts on /tmp and
# /dev/shm, proves it, and runs what it is given. /proc stays as it is, since it has to be written for namespaces.
set -eu

while read -r _ mount _; do
    mount=$(printf '%b' "$mount")
    case $mount in
        /proc | /proc/*) ;;
        *) mount -n -o remount,bind,ro "$mount" 2>/dev/null || true ;;
    esac
done </proc/self/mounts

# A copy, since another user may not be able to reach the folder of the build.
mount -n -t tmpfs -o mode=1777,size=2g tmpfs /dev/shm
cp "$1" /dev/shm/test
mount -n -t tmpfs -o mode=1777,size=2g tmpfs /tmp
mv /dev/shm/test /tmp/test
chmod 0755 /tmp/test

for directory in / /etc /home /root /usr /var "${HOME:-/}" "$PWD" "${1%/*}"; do
    case $directory/ in /tmp/* | /dev/shm/*) continue ;; esac
    if [ -d "$directory" ] && (: >"$directory/.contain-probe") 2>/dev/null; then
        rm -f "$directory/.contain-probe"
        echo "left out: $directory can still be written"
        exit 77
    fi
done

shift
cd /tmp
exec /tmp/test "$@"
