#!/bin/sh
# Prints the folder of the JSON schemas that kubeconform holds objects against: of the Kubernetes that kubernetes/ pins, out of the
# API description in its Go module; of Certificate and PodMonitor, out of what definitions.sh has; and of BackupMx, out of
# crds/backupmx.yaml. Writes them first if they are not there: 2 MB, outside the clone, in seconds once Go has the modules.
set -eu
. "$(dirname "$0")/go-programs.sh"
here=$(cd "$(dirname "$0")" && pwd)
crd="$here/../../crds/backupmx.yaml"
others=$("$here/definitions.sh")

# Whatever they are made from, so another definition of BackupMx is another folder.
key=$(cd "$here" && cat schemas.sh schemas/go.* schemas/*.go kubernetes/go.mod "$crd" "$others"/*.yaml | sha256sum | cut -c 1-16)
root="$tools/schemas-$key"
print_if_built
command -v go >/dev/null || fail "install Go 1.26 or newer and put it on PATH: it writes the schemas"

mkdir -p "$tools"
# Those of former definitions.
find "$tools" -maxdepth 1 -name 'schemas-*' -mtime +1 -exec rm -rf {} +
writing=$(mktemp -d "$tools/writing.XXXXXX")
trap 'rm -rf "$writing"' EXIT
trap 'exit 1' HUP INT TERM
chmod 755 "$writing"

module=k8s.io/kubernetes
(cd "$here/kubernetes" && go mod download "$module") || fail "$module could not be had; what Go said is above"
folder=$(cd "$here/kubernetes" && go list -m -f '{{.Dir}}' "$module")
(cd "$here/schemas" && go run . "$writing" "$folder/api/openapi-spec/swagger.json" "$crd" "$others"/*.yaml) >&2

# The name appears with all of them or not at all. Whoever was faster has written the same.
mv -T "$writing" "$root" 2>/dev/null || [ -d "$root" ] || fail "the schemas could not be moved to $root"
echo "$root"
