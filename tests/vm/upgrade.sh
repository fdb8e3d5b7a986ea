# Runs in a machine of its own, as root, under a real systemd: restarts the service in the middle of work.
# Beside it: client.py; scratchd, scratch and storm-client in /usr/bin, the units in /etc/systemd/system.
set -eu
here=$(dirname "$0")
pool=/var/lib/scratchd/default
say() { echo "upgrade: $*"; }
fail() { say "FAILED: $*"; journalctl -u scratchd --no-pager | tail -40; exit 1; }
leases() { ls "$pool" | wc -l; }
eventually() { # WHAT COMMAND…
  what=$1; shift
  for _ in $(seq 600); do "$@" && return 0; sleep 0.1; done
  fail "not within 60 s: $what"
}
main_pid() { systemctl show -P MainPID scratchd; }
descriptors() { ls "/proc/$(main_pid)/fd" | wc -l; }
stored() { systemctl show -P NFileDescriptorStore scratchd; }
clients() { # NUMBER OUTPUT; ends at $2.stop
  python3 "$here/client.py" /run/scratchd/handle.sock "$1" "$2.stop" >"$2" 2>&1 &
  client=$!
  eventually "all clients are served" grep -q served "$2"
}
end_clients() { touch "$1.stop"; wait "$client" || fail "a client: $(cat "$1")"; say "$(tail -1 "$1")"; }
# Clients that connect again. Each answers a line with one when it has come some rounds further.
storm_client() { storm-client /run/scratchd "$1" broker <"/tmp/$1.in" >"/tmp/$1.out" 2>&1; }
has_lines() { [ "$(wc -l <"$1")" = "$2" ]; }
go_on() { # TIMES, with those before
  echo >&7; echo >&8; echo >&9
  for flavour in blocking tokio raw; do eventually "$flavour goes on" has_lines "/tmp/$flavour.out" "$1"; done
}
is_active() { systemctl is-active -q scratchd; }
has_leases() { [ "$(leases)" = "$1" ]; }

systemd-analyze verify --man=no /etc/systemd/system/scratchd.service /etc/systemd/system/scratchd.socket || fail "systemd-analyze"
mkdir -p /etc/scratchd
printf '[[pool]]\nname = "default"\nroot = "%s"\n' "$pool" >/etc/scratchd/scratchd.toml
mkdir -m 0711 -p /var/lib/scratchd "$pool"
systemctl daemon-reload

for sockets in broker unit; do
  say "sockets made by the $sockets"
  if [ "$sockets" = unit ]; then
    systemctl stop scratchd
    rm -f /run/scratchd/*.sock
    systemctl start scratchd.socket
    ! is_active || fail "it runs before there is a client"
  else
    systemctl start scratchd
  fi
  clients 300 "/tmp/$sockets"
  is_active || fail "no client has started it"
  scratch run -- sh -c 'echo "$TMPDIR"; while [ ! -e /tmp/end ]; do echo x >>"$TMPDIR/log"; sleep 0.1; done; wc -l <"$TMPDIR/log"' >/tmp/run.out &
  runner=$!
  eventually "scratch run has its area" test -s /tmp/run.out
  before=$(descriptors)
  for number in 1 2 3 4 5; do
    systemctl restart scratchd || fail "restart $number"
    kill -0 "$client" || fail "a client: $(cat "/tmp/$sockets")"
  done
  end_clients "/tmp/$sockets"
  grep -q ' 1500 restarts' "/tmp/$sockets" || fail "not all connections came through"
  eventually "the leases of closed connections end" has_leases 1
  [ "$(stored)" = 0 ] || fail "$(stored) descriptors are still stored"
  say "descriptors: $before with 300 connections, $(descriptors) now"

  mkfifo /tmp/blocking.in /tmp/tokio.in /tmp/raw.in
  storm_client blocking & blocking=$!
  storm_client tokio & tokio=$!
  storm_client raw & raw=$!
  exec 7>/tmp/blocking.in 8>/tmp/tokio.in 9>/tmp/raw.in
  go_on 1
  old=$(main_pid)
  systemctl kill -s KILL scratchd
  eventually "systemd starts it again" sh -c '[ "$(systemctl show -P MainPID scratchd)" != '"$old"' ] && systemctl is-active -q scratchd'
  go_on 2
  exec 7>&- 8>&- 9>&-
  for ended in $blocking $tokio $raw; do wait "$ended" || fail "a client: $(cat /tmp/*.out)"; done
  rm /tmp/blocking.* /tmp/tokio.* /tmp/raw.*
  clients 50 "/tmp/$sockets.killed"
  systemctl restart scratchd
  end_clients "/tmp/$sockets.killed"
  kill -0 "$runner" || fail "scratch run did not come through"
  touch /tmp/end
  wait "$runner" || fail "scratch run failed"
  eventually "the last lease ends" has_leases 0
  rm -f /tmp/end /tmp/run.out
  say "killed and resumed"
done
say "all well"
