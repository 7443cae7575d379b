# Names, paths and helpers. Every script of this folder sources this file first.

LIB=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
ROOT=$(dirname "$LIB")

# All that is written lies below this folder. Another one is another cluster, which needs another port, too.
export CLUSTER_STATE=${CLUSTER_STATE:-${XDG_CACHE_HOME:-$HOME/.cache}/backupmx/cluster}
# Where the API server answers: on 127.0.0.1 of this machine, and on the node's addresses in the node's own network.
export CLUSTER_PORT=${CLUSTER_PORT:-6443}
IMAGES=$CLUSTER_STATE/images    # *.tar: imported into the node when it starts
PKI=$CLUSTER_STATE/pki
LOGS=$CLUSTER_STATE/log
RUN=$CLUSTER_STATE/run          # there while a cluster is up, gone after down.sh
PIDS=$RUN/pids                  # process numbers as this machine counts them
NODE_PIDS=$RUN/node-pids        # process numbers as the node counts them
ZONES=$RUN/zones                # NAME.zone: served by the cluster's DNS
ADMIN_KUBECONFIG=$CLUSTER_STATE/admin.kubeconfig
# kubectl and helm remember for hours what kinds an address serves. The next
# cluster has the same address and other kinds, so the memory is the cluster's.
export KUBECACHEDIR=$RUN/kubectl-cache

# A forgotten cluster ends itself after this many seconds.
export CLUSTER_TTL=${CLUSTER_TTL:-10800}

PATH=${PROGRAMS:+$PROGRAMS:}$PATH:/usr/sbin:/sbin

NODE_NAME=k8s-node
NODE_IP=10.200.0.1              # on the bridge node0, the LAN of the node and its neighbours
NODE_LAN=10.200.0.0/24
POD_CIDR=10.244.0.0/24
SERVICE_CIDR=10.96.0.0/16
API_SERVICE_IP=10.96.0.1
BALANCER_LAN=10.201.0           # .1 to .254: addresses of Services of type LoadBalancer
CGROUP=backupmx-$(basename "$CLUSTER_STATE")  # the pods' cgroup, below the root

say() { echo "${0##*/}: $*" >&2; }
die() { say "$@"; exit 1; }

# A script that ends at its first error (set -e) says which command it was.
case $- in
  *e*)
    set -o errtrace
    trap 'say "${BASH_SOURCE[0]##*/} line $LINENO failed: $BASH_COMMAND"' ERR ;;
esac

# Puts the programs on PATH, and on that of whatever is started from here. They were built before, outside the clone.
find_programs() {
  [ -z "${PROGRAMS:-}" ] || return 0
  PROGRAMS=$(env -u KUBEBUILDER_ASSETS "$ROOT/../tools/kubernetes.sh" --find) || exit 1
  PROGRAMS+=:$("$ROOT/../tools/helm.sh" --find) || exit 1
  export PROGRAMS
  PATH=$PROGRAMS:$PATH
}

# start NAME COMMAND...: run a component in the background.
# setsid keeps the terminal's Ctrl-C from it.
start() {
  local name=$1
  shift
  setsid timeout "$CLUSTER_TTL" "$@" </dev/null >>"$LOGS/$name.log" 2>&1 &
  echo $! >"$PIDS/$name"
}

# stop NAME WORD: end a component, if its command line has WORD in it.
# It gets 3 s: an API server would wait a minute for its clients to leave.
stop() {
  local file=$PIDS/$1 pid
  is_running "$file" "$2" || return 0
  pid=$(cat "$file")
  kill -TERM -- "-$pid" || return 0    # its process group: `timeout` and the program that it started
  for _ in {1..30}; do
    is_running "$file" "$2" || return 0
    sleep 0.1
  done
  kill -KILL -- "-$pid" || true
}

# is_running PID_FILE WORD: the process lives and its command line has WORD in it.
# A process number alone may by now belong to a stranger.
is_running() {
  local pid
  pid=$(cat "$1" 2>/dev/null) && tr '\0' ' ' 2>/dev/null <"/proc/$pid/cmdline" | grep -q -- "$2"
}

# await SECONDS NAME COMMAND...: until COMMAND succeeds. Fails at once when the
# component NAME has ended.
await() {
  local end=$((SECONDS + $1)) limit=$1 name=$2
  shift 2
  until "$@" >/dev/null 2>&1; do
    if ! is_running "$PIDS/$name" "$name"; then
      tail -n 5 "$LOGS/$name.log" >&2
      die "$name has ended; its output is in $LOGS/$name.log"
    fi
    [ $SECONDS -lt $end ] || die "$name was not ready after $limit s; its output is in $LOGS/$name.log"
    sleep 0.1
  done
}

# api PATH [CURL_FLAG...]: ask the API server as administrator, without kubectl's start-up time.
api() {
  local path=$1
  shift
  curl --silent --fail --cacert "$PKI/ca.crt" --cert "$PKI/admin.crt" --key "$PKI/admin.key" \
    "$@" "https://127.0.0.1:$CLUSTER_PORT$path"
}

seconds_since() { # START, from date +%s.%N
  awk -v a="$1" -v b="$(date +%s.%N)" 'BEGIN { printf "%.1f s", b - a }'
}
