# Runs in a machine of its own, as root: project quotas of ext4 and XFS hold a tenant to its limits.
# Beside it: client.py, persist.py; scratchd and scratch in /usr/bin; ext4 with project quotas at /mnt/e, XFS at /mnt/x, the same without at /mnt/n.
set -eu
say() { echo "quota: $*"; }
fail() { say "FAILED: $*"; tail -30 /tmp/broker.log; exit 1; }
eventually() { # WHAT COMMAND…
  what=$1; shift
  for _ in $(seq 300); do "$@" && return 0; sleep 0.1; done
  fail "not within 30 s: $what"
}
tenant() { setpriv --reuid 1234 --regid 1234 --clear-groups env HOME=/tmp "$@"; }
run() { tenant scratch run "$@"; }
start() { # ROOT [MORE OF THE POOL]
  install -d -m 0711 "$1"
  printf '[[pool]]\nname = "default"\nroot = "%s"\n%b\n' "$1" "${2-}" >/tmp/config.toml
  scratchd --config /tmp/config.toml >>/tmp/broker.log 2>&1 &
  broker=$!
  eventually "the broker serves" scratch status >/dev/null 2>&1
}
stop() { kill "-$1" "$broker"; wait "$broker" || true; }
grant() { tenant scratch lease grant --ttl 1h "$@"; }
path() { echo "$root/$1"; }
project() { lsattr -dp "$(path "$1")" | awk '{print $1}'; }
used() { quota_of "$1" | awk '{print $4}'; }                     # KiB
quota_of() { repquota -Pn "/mnt/$m" | awk -v id="#$1" '$1 == id'; }
is_unused() { [ -z "$(quota_of "$1")" ] || [ "$(quota_of "$1" | awk '{print $3 + $6}')" = 0 ]; }
free() { df --output=avail -k "/mnt/$m" | tail -1; }
revoke() { for lease in "$@"; do tenant scratch lease revoke --wait "$lease" >/dev/null; done; }
refused() { # REASON COMMAND…
  reason=$1; shift
  if "$@" >/tmp/out 2>&1; then fail "$* was not refused"; fi
  grep -q "$reason" /tmp/out || fail "$* was refused for another reason: $(cat /tmp/out)"
}

for m in e x; do
  root=/mnt/$m/pool
  start "$root" 'project_ids = "5000-5009"'
  scratch status | grep -q 'limits cooperative' || fail "$(scratch status)"
  sync; before=$(free)

  # A file of as much as there is, in whole blocks; the directory may have one.
  run --size 8MiB -- sh -c 'dd if=/dev/zero of="$TMPDIR/big" bs=4096 count=8192 2>/dev/null; stat -c %s "$TMPDIR/big"' >/tmp/written 2>/dev/null || true
  written=$(cat /tmp/written)
  say "$m: $written of $((8 << 20)) bytes"
  [ "$written" -le $((8 << 20)) ] && [ "$written" -ge $(((8 << 20) - 8192)) ] || fail "bytes"
  run --inodes 10 -- sh -c 'for i in $(seq 20); do touch "$TMPDIR/$i" || break; done; ls "$TMPDIR" | wc -l' >/tmp/made 2>/dev/null || true
  [ "$(cat /tmp/made)" = 10 ] || fail "$(cat /tmp/made) inodes of 10"
  eventually "what was used is free" is_unused 5000
  eventually "the space is back" sh -c "[ \$(df --output=avail -k /mnt/$m | tail -1) -ge $((before - 64)) ]"

  # What a child has its parent has not.
  outer=$(grant --size 8MiB --inodes 100)
  inner=$(grant --parent "$outer" --size 6MiB --inodes 50)
  [ "$(project "$outer")" != "$(project "$inner")" ] || fail "one project for two"
  tenant dd if=/dev/zero of="$(path "$outer")/big" bs=1M count=8 2>/dev/null && fail "the parent has what its child has"
  [ "$(stat -c %s "$(path "$outer")/big")" -le $((2 << 20)) ] || fail "the parent has what its child has"
  refused LIMIT_BYTES grant --parent "$outer" --size 1MiB --inodes 1
  rm "$(path "$outer")/big"
  shared=$(grant --parent "$outer")
  [ "$(project "$outer")" = "$(project "$shared")" ] || fail "without limits it shares them"
  refused LIMITS_NOT_FIRM grant --parent "$outer" --size 1KiB
  revoke "$shared" "$inner"
  tenant dd if=/dev/zero of="$(path "$outer")/big" bs=1M count=7 2>/dev/null || fail "the parent has not got it back"
  revoke "$outer"

  # Numbers: none twice, also after a restart, and not even when their owner takes the directory out.
  all=
  for _ in 1 2 3; do all="$all $(grant --size 1MiB)"; done
  for lease in $all; do tenant chattr -p 0 "$(path "$lease")"; done
  stop KILL
  start "$root" 'project_ids = "5000-5009"'
  more=
  for _ in 1 2 3 4; do more="$more $(grant --size 1MiB)"; done
  count=$(for lease in $more; do project "$lease"; done | sort -u | wc -l)
  [ "$count" = 4 ] || fail "$count numbers for four leases"
  rest=
  for _ in 1 2 3; do rest="$rest $(grant --size 1MiB)"; done
  refused NO_SPACE grant --size 1MiB
  revoke $all
  again=$(grant --size 1MiB)
  revoke $more $rest $again
  refused POOL_PROMISED grant --size 1TiB

  install -d -o 1234 "/mnt/$m/kept"
  tenant python3 "$(dirname "$0")/persist.py" /run/scratchd/handle.sock "$root" "/mnt/$m/kept" || fail "persist"

  # Who takes its directory out of the project is found out.
  printf '[meter]\ninterval = "1s"\nconsequence = "end"\n' >>/tmp/config.toml
  good=$(grant --size 1MiB) bad=$(grant --size 1MiB)
  tenant mkdir "$(path "$bad")/below" "$(path "$good")/below"
  tenant chattr -p 0 "$(path "$bad")/below"
  eventually "the meter has ended it" sh -c "[ ! -e $(path "$bad") ]"
  scratch lease show "$bad" | grep -q METER || fail "$(scratch lease show "$bad")"
  [ -e "$(path "$good")" ] || fail "the meter has ended what has done nothing"
  revoke "$good"
  stop TERM
  say "$m: all well"
done

root=/mnt/n/pool m=n
start "$root"
scratch status | grep -q 'limits soft' || fail "$(scratch status)"
refused LIMITS_NOT_FIRM run --size 1MiB -- true
run --size 1MiB --soft -- true || fail "soft limits are limits"
stop TERM
say "all well"
