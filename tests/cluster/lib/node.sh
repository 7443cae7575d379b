#!/bin/bash
# The first process of the node's private namespaces. Started by up.sh; when it
# ends, the kernel ends every process in them, containers too.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
. "$LIB/control-plane.sh"
. "$LIB/node-config.sh"
PIDS=$NODE_PIDS

main() {
  mkdir -p "$RUN"/{kubelet,pod-logs,containerd,cni,flex,volumes}
  privatize_folders
  privatize_sysctls
  make_cgroup
  make_network
  write_node_config

  start containerd containerd --config "$RUN/containerd.toml"
  start_control_plane 0.0.0.0 "$NODE_IP"
  start api-forward socat "UNIX-LISTEN:$RUN/api.sock,mode=600,fork" "TCP:127.0.0.1:$CLUSTER_PORT"
  await 30 containerd ctr --address "$RUN/containerd.sock" version
  import_images

  start kubelet kubelet --config="$RUN/kubelet.yaml" --kubeconfig="$PKI/kubelet.kubeconfig" \
    --node-ip="$NODE_IP" --hostname-override="$NODE_NAME" --root-dir="$RUN/kubelet" --cert-dir="$RUN/kubelet/pki"
  start coredns coredns -conf "$RUN/Corefile"
  # kube-proxy reads Services and nodes under its own name. kubeadm binds this role, too.
  kubectl --kubeconfig "$ADMIN_KUBECONFIG" create clusterrolebinding kube-proxy \
    --clusterrole=system:node-proxier --user=system:kube-proxy
  start kube-proxy kube-proxy --config="$RUN/proxy.yaml"
  start provider "$LIB/provider.sh"

  await_controllers
  await 60 kubelet node_is_ready
  await 30 kube-proxy curl --silent --fail http://127.0.0.1:10256/healthz
  await 30 provider api /apis/storage.k8s.io/v1/storageclasses/sized
  touch "$RUN/ready"
  sleep "$CLUSTER_TTL"
}

# Programs that keep state at a fixed path get an empty file system there, so
# that containers of another cluster or engine on this machine are not touched.
privatize_folders() {
  local folder
  mount --make-rshared /    # containers see later mounts; the machine does not
  for folder in /run/containerd /run/netns /var/lib/cni /var/lib/kubelet /var/log/containers; do
    mkdir -p "$folder"
    mount -t tmpfs none "$folder"
  done
}

# The kubelet sets these for the whole machine. It gets files of its own that
# already say what it wants.
privatize_sysctls() {
  local setting file
  for setting in vm/overcommit_memory=1 vm/panic_on_oom=0 kernel/panic=10 kernel/panic_on_oops=1; do
    file=$RUN/sysctl-$(basename "${setting%=*}")
    echo "${setting#*=}" >"$file"
    mount --bind "$file" "/proc/sys/${setting%=*}"
  done
}

# All pods live below one cgroup, so that down.sh can remove what they leave.
make_cgroup() {
  local root=/sys/fs/cgroup hierarchy controller
  if [ -e $root/cgroup.controllers ]; then    # version 2
    mkdir -p "$root/$CGROUP"
    # The kubelet refuses a cgroup that lacks one of them, hugetlb for instance.
    for controller in $(cat $root/cgroup.controllers); do
      echo "+$controller" >$root/cgroup.subtree_control
    done
  else                                        # version 1: one tree for each controller
    for hierarchy in "$root"/*/cgroup.procs; do
      mkdir -p "$(dirname "$hierarchy")/$CGROUP"
    done
    # A new cpuset is empty, and nothing can run in it.
    cat $root/cpuset/cpuset.cpus >"$root/cpuset/$CGROUP/cpuset.cpus"
    cat $root/cpuset/cpuset.mems >"$root/cpuset/$CGROUP/cpuset.mems"
  fi
}

# The bridge node0 is the LAN that the node shares with the neighbours that
# enter.sh --host makes. Nothing leads to the machine's network.
make_network() {
  ip link set lo up
  ip link add node0 type bridge
  ip address add "$NODE_IP/${NODE_LAN#*/}" dev node0
  ip link set node0 up
  # kube-proxy rewrites these addresses, but only once the kernel has found a route.
  ip route add "$SERVICE_CIDR" dev node0
  ip route add "$BALANCER_LAN.0/24" dev node0
  echo 1 >/proc/sys/net/ipv4/ip_forward
  # Without it a pod's answer to a pod on the same bridge bypasses kube-proxy's rules.
  echo 1 >/proc/sys/net/bridge/bridge-nf-call-iptables
}

import_images() {
  local archive imports=()
  for archive in "$IMAGES"/*.tar; do
    ctr --address "$RUN/containerd.sock" --namespace k8s.io images import "$archive" &
    imports+=($!)
  done
  for archive in "${imports[@]}"; do wait "$archive" || die "an image of $IMAGES cannot be imported"; done
}

node_is_ready() {
  api "/api/v1/nodes/$NODE_NAME" | jq -e '.status.conditions[] | select(.type == "Ready" and .status == "True")'
}

main
