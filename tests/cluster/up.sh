#!/bin/bash
# up.sh: brings up one whole Kubernetes node on this machine: API server, controllers, scheduler, kubelet, containerd,
# kube-proxy, DNS, volumes and load balancer addresses, in namespaces of its own. Needs root on Debian.
#
# The API server answers on 127.0.0.1:$CLUSTER_PORT of this machine. All else is reached through enter.sh.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib/common.sh"
. "$LIB/check.sh"
. "$LIB/pki.sh"
. "$LIB/control-plane.sh"

main() {
  local began
  began=$(date +%s.%N)
  [ ! -e "$RUN" ] || die "there is a cluster already, or the rest of one: run $ROOT/down.sh first"
  check_machine
  find_programs

  mkdir -p "$IMAGES" "$LOGS" "$PIDS" "$NODE_PIDS" "$ZONES"
  rm -f "$LOGS"/*.log
  trap give_up EXIT
  make_pki 2>"$LOGS/pki.log"    # openssl reports each step there
  start_node
  trap - EXIT
  write_env
  echo "The cluster is up after $(seconds_since "$began"). Its kubeconfig is $ADMIN_KUBECONFIG; for kubectl and helm: . $CLUSTER_STATE/env"
}

write_env() {
  cat >"$CLUSTER_STATE/env" <<SH
export KUBECONFIG=$ADMIN_KUBECONFIG
export KUBECACHEDIR=$KUBECACHEDIR
export PATH=$PROGRAMS:\$PATH
SH
}

give_up() {
  say "the cluster did not come up; its logs stay in $LOGS"
  "$ROOT/down.sh" >/dev/null
  exit 1
}

start_node() {
  make_pause_image
  # --kill-child: when this process ends, so does the node with all its containers.
  # --propagation slave: the node sees what the machine mounts, not the other way round.
  start node unshare --net --pid --fork --kill-child=SIGKILL --mount --mount-proc \
    --propagation slave "$LIB/node.sh"
  # Programs of the machine reach the API server through a Unix socket: a file
  # is the one thing that both network namespaces share.
  await 120 node test -S "$RUN/api.sock"
  start forward socat "TCP-LISTEN:$CLUSTER_PORT,bind=127.0.0.1,reuseaddr,fork" "UNIX-CONNECT:$RUN/api.sock"
  await 180 node test -e "$RUN/ready"
}

make_pause_image() {
  local binary folder
  binary=$(PATH=$PROGRAMS command -v pause)
  [ ! "$IMAGES/localhost_pause_1.tar" -nt "$binary" ] || return 0
  folder=$(mktemp -d)
  cp "$binary" "$folder/pause"
  printf '%s\n' 'FROM scratch' 'COPY pause /pause' 'USER 65535:65535' 'ENTRYPOINT ["/pause"]' >"$folder/Dockerfile"
  "$ROOT/image.sh" localhost/pause:1 "$folder"
  rm -r "$folder"
}

main "$@"
