#!/bin/bash
# enter.sh COMMAND...              in the node's network: 127.0.0.1, pods, Services
# enter.sh --all COMMAND...        in all of the node's namespaces: its mounts and processes, too
# enter.sh --host ADDRESS COMMAND...
#     on a neighbour of the node with an address of its own (10.200.0.2 to .254):
#     a client or a server outside the cluster. It is made when first named.
# enter.sh --where [ADDRESS]       prints the file of the node's or that neighbour's network, for programs that enter it themselves
#
# Files, user and environment stay the caller's; kubectl, helm and a KUBECONFIG are
# added. Names are not resolved by the cluster's DNS: ask 10.200.0.1 for that.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib/common.sh"

USAGE="usage: enter.sh [--all | --host ADDRESS] COMMAND..., or enter.sh --where [ADDRESS]"

main() {
  [ $# -gt 0 ] || die "$USAGE"
  is_running "$PIDS/node" node.sh || die "no node is up"
  find_programs
  NODE_PID=$(node_pid)
  export PATH KUBECONFIG=${KUBECONFIG:-$ADMIN_KUBECONFIG}
  case $1 in
    --where) network_of "${2:-}" ;;
    --all)
      [ $# -gt 1 ] || die "$USAGE"
      in_node "${@:2}" ;;
    --host)
      [ $# -gt 2 ] || die "$USAGE"
      exec nsenter --net="$(network_of "$2")" -- "${@:3}" ;;
    *) exec nsenter --net="$(network_of "")" -- "$@" ;;
  esac
}

# The node's first process: child of unshare, child of timeout.
node_pid() {
  pgrep --parent "$(pgrep --parent "$(cat "$PIDS/node")")"
}

in_node() {
  nsenter --target "$NODE_PID" --net --mount --pid --wdns="$PWD" -- "$@"
}

network_of() { # [ADDRESS]
  local network=/proc/$NODE_PID/ns/net
  if [ -n "$1" ]; then
    [[ $1 =~ ^${NODE_LAN%.*}\.[0-9]+$ ]] || die "not an address in $NODE_LAN: $1"
    network=/proc/$NODE_PID/root/run/netns/$1
    [ -e "$network" ] || make_neighbour "$1"
  fi
  echo "$network"
}

make_neighbour() { # ADDRESS
  local port=lan${1##*.}
  in_node ip netns add "$1"
  in_node ip link add "$port" type veth peer name eth0 netns "$1"
  in_node ip link set "$port" master node0 up
  in_node ip -n "$1" address add "$1/${NODE_LAN#*/}" dev eth0
  in_node ip -n "$1" link set eth0 up
  in_node ip -n "$1" link set lo up
  in_node ip -n "$1" route add default via "$NODE_IP"
}

main "$@"
