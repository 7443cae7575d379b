# What a node needs of the machine. Each lack ends up.sh with one line that names it.

check_machine() {
  [ "$(id -u)" = 0 ] || die "run it as root: it makes namespaces, mounts and cgroups"
  check_packages
  check_port
  check_kernel
  check_path_length
}

check_packages() {
  PACKAGES=()
  need openssl openssl
  need curl curl
  need ss iproute2
  need containerd containerd
  need runc runc
  need /usr/lib/cni/bridge containernetworking-plugins
  need iptables iptables
  need socat socat
  need jq jq
  need buildah buildah
  need pgrep procps
  need mkfs.ext4 e2fsprogs
  [ ${#PACKAGES[@]} = 0 ] || die "missing packages: apt-get install -y --no-install-recommends ${PACKAGES[*]}"
}

need() { # COMMAND PACKAGE
  command -v "$1" >/dev/null || PACKAGES+=("$2")
}

check_port() {
  local holder
  holder=$(ss --no-header --listening --tcp --numeric --processes "sport = :$CLUSTER_PORT")
  [ -z "$holder" ] || die "port $CLUSTER_PORT is in use: ${holder##* users:}; end it, or set CLUSTER_PORT to another one"
}

check_kernel() {
  # A Debian kernel has these as modules; other kernels may have them built in.
  grep -qw overlay /proc/filesystems || modprobe overlay || die "the kernel has no overlay file system"
  [ -e /proc/sys/net/bridge ] || modprobe br_netfilter || die "the kernel has no br_netfilter"
  # containerd stacks overlays in it, which an overlay does not allow.
  mkdir -p "$CLUSTER_STATE"
  [ "$(stat --file-system --format %T "$CLUSTER_STATE")" != overlayfs ] ||
    die "CLUSTER_STATE lies on an overlay file system: $CLUSTER_STATE"
}

check_path_length() {
  # The longest path of a Unix socket below $RUN; the kernel allows 107 characters.
  local longest=$RUN/kubelet/pod-resources/kubelet.sock.lock
  [ ${#longest} -le 107 ] || die "the path of CLUSTER_STATE is too long for Unix sockets: $CLUSTER_STATE"
}
