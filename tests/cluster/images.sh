#!/bin/bash
# images.sh: builds the images that the tests run, and gives them to the node: relay and operator in profile ci, and a mail server.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib/common.sh"
REPOSITORY=$(cd "$ROOT/../.." && pwd)

main() {
  [ "$(id -u)" = 0 ] || die "run it as root: images are handed to a node that needs root"
  local context version part
  context=$("$REPOSITORY/images.sh" --programs ci)
  version=$("$REPOSITORY/images.sh" --version)
  for part in relay operator; do
    "$ROOT/image.sh" "localhost/backupmx-$part:$version" "$context" --file "$REPOSITORY/Dockerfile" --target "$part"
  done
  "$ROOT/mail-server.sh"
}

main
