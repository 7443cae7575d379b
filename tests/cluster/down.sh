#!/bin/bash
# down.sh: end the cluster and remove what it left, except logs and images.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib/common.sh"

main() {
  [ -e "$RUN" ] || { echo "no cluster is up"; return; }
  stop forward socat
  stop node node.sh
  remove_cgroups
  rm -rf --one-file-system "$RUN"
  echo down
}

# A cgroup can be removed once the kernel has buried the last of its processes.
remove_cgroups() {
  for _ in {1..50}; do
    find /sys/fs/cgroup -depth -type d -path "*/$CGROUP*" -exec rmdir {} + 2>/dev/null || true
    [ -n "$(find /sys/fs/cgroup -maxdepth 2 -name "$CGROUP")" ] || return 0
    sleep 0.1
  done
  say "cgroups named $CGROUP remain below /sys/fs/cgroup"
}

main
