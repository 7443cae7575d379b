# The configuration files of the programs that make the node.

write_node_config() {
  write_containerd_config >"$RUN/containerd.toml"
  write_pod_network_config >"$RUN/cni/10-bridge.conflist"
  write_kubelet_config >"$RUN/kubelet.yaml"
  write_proxy_config >"$RUN/proxy.yaml"
  write_dns_config >"$RUN/Corefile"
  echo "nameserver $NODE_IP" >"$RUN/resolv.conf"
}

write_containerd_config() {
  cat <<TOML
version = 2
root = "$RUN/containerd/root"
state = "$RUN/containerd/state"
# Snapshotters that this machine lacks only fill the log; internal.v1.opt makes /opt/containerd.
disabled_plugins = ["io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.aufs", "io.containerd.internal.v1.opt"]

[grpc]
  address = "$RUN/containerd.sock"

[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "localhost/pause:1"
  # With AppArmor containerd would load a profile into the machine's kernel.
  disable_apparmor = true
  # A negative score needs CAP_SYS_RESOURCE, which root may lack. Without this line runc then
  # fails with "can't get final child's PID from pipe".
  restrict_oom_score_adj = true

  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "$RUN/cni"

  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
TOML
}

write_pod_network_config() {
  # hairpinMode: a pod can reach itself through its own Service.
  # No masquerading: a server outside the pods sees the pod's own address.
  cat <<JSON
{
  "cniVersion": "1.0.0",
  "name": "pods",
  "plugins": [
    {
      "type": "bridge", "bridge": "cni0", "isGateway": true, "hairpinMode": true, "ipMasq": false,
      "ipam": {"type": "host-local", "ranges": [[{"subnet": "$POD_CIDR"}]], "routes": [{"dst": "0.0.0.0/0"}]}
    },
    {"type": "portmap", "capabilities": {"portMappings": true}}
  ]
}
JSON
}

write_kubelet_config() {
  cat <<YAML
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication:
  anonymous: {enabled: false}
  x509: {clientCAFile: $PKI/ca.crt}
authorization: {mode: Webhook}
tlsCertFile: $PKI/kubelet-serving.crt
tlsPrivateKeyFile: $PKI/kubelet-serving.key
containerRuntimeEndpoint: unix://$RUN/containerd.sock
clusterDNS: [$NODE_IP]
clusterDomain: cluster.local
resolvConf: $RUN/resolv.conf
podLogsDir: $RUN/pod-logs
volumePluginDir: $RUN/flex

cgroupRoot: /$CGROUP
cgroupDriver: cgroupfs
failCgroupV1: false         # since 1.35 the kubelet refuses version 1 unless told otherwise
failSwapOn: false           # the machine may swap

nodeStatusUpdateFrequency: 5s
# A container that ends again and again is started again after 1 s, not after up to 5 min: tests restart it often.
featureGates: {KubeletCrashLoopBackOffMax: true}
crashLoopBackOff: {maxContainerRestartPeriod: 1s}
kubeAPIQPS: 300
kubeAPIBurst: 600

# Images cannot be pulled again, so none may be collected, and the machine's
# disk, which is not the node's own, must not evict pods before it is really full.
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
evictionHard:
  memory.available: 100Mi
  nodefs.available: 1%
  nodefs.inodesFree: 1%
  imagefs.available: 1%
  imagefs.inodesFree: 1%

# The default (-999) needs CAP_SYS_RESOURCE, and would have the kernel kill the
# machine's own programs first.
oomScoreAdj: 0
YAML
}

write_proxy_config() {
  # 0 for conntrack: leave the machine's own limits alone.
  cat <<YAML
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: iptables
bindAddress: $NODE_IP
hostnameOverride: $NODE_NAME
clusterCIDR: $POD_CIDR
clientConnection: {kubeconfig: $PKI/proxy.kubeconfig}
conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
iptables: {minSyncPeriod: 100ms}
oomScoreAdj: 0
YAML
}

write_dns_config() {
  # What neither Kubernetes nor a zone file knows does not exist.
  cat <<COREFILE
.:53 {
    bind $NODE_IP
    errors
    kubernetes cluster.local in-addr.arpa {
        kubeconfig $PKI/admin.kubeconfig backupmx-cluster
        pods verified
        ttl 1
    }
    auto {
        directory $ZONES (.*)\.zone {1}
        reload 1s
    }
    template ANY ANY . {
        rcode NXDOMAIN
        authority ". 1 IN SOA ns.invalid. none.invalid. 1 1 1 1 1"
    }
}
COREFILE
}
