#!/bin/sh
# Prints the folder of etcd, kube-apiserver, kube-controller-manager and kubectl, of the versions that kubernetes/go.mod and
# kubernetes/etcd/go.mod pin. Builds them first if they are not there: from Go modules, outside the clone, once.
# With --find nothing is built: it fails if they are not there. A folder named by KUBEBUILDER_ASSETS goes before.
set -eu

# Without C the programs run on any Linux, and no compiler but Go's is needed.
export CGO_ENABLED=0
# What a person has set for Go must not change what is built.
export GOFLAGS= GOWORK=off
STRIPPED="-s -w"
# Two compilers at a time: more only fight over a small machine, and linking takes 1 GB each.
JOBS=2

pins=$(cd "$(dirname "$0")/kubernetes" && pwd)
tools="${XDG_CACHE_HOME:-${HOME:?is not set}/.cache}/backupmx/tools"

fail() {
    echo "kubernetes.sh: $*" >&2
    exit 1
}

if [ -n "${KUBEBUILDER_ASSETS:-}" ]; then
    for program in etcd kube-apiserver kube-controller-manager; do
        [ -x "$KUBEBUILDER_ASSETS/$program" ] ||
            fail "KUBEBUILDER_ASSETS is $KUBEBUILDER_ASSETS, where there is no $program; unset it, or put $program there"
    done
    echo "$KUBEBUILDER_ASSETS"
    exit
fi

key=$(cd "$pins" && { cat go.mod go.sum etcd/go.mod etcd/go.sum; echo "$STRIPPED"; } | sha256sum | cut -c 1-16)
root="$tools/kubernetes-$key"
if [ -d "$root" ]; then
    echo "$root"
    exit
fi
[ "${1:-}" != --find ] || fail "Kubernetes' programs are not in $root: \`make test\` builds them (or run $0)"

command -v go >/dev/null || fail "install Go 1.26 or newer and put it on PATH: Kubernetes' programs are built with it"
answer=$(cd "$pins" && go list -m 2>&1) || fail "install Go 1.26 or newer; the one on PATH says: $answer"

mkdir -p "$tools"
# Whoever comes second waits, and finds the programs there.
exec 9>"$tools/kubernetes-lock"
flock 9
if [ -d "$root" ]; then
    echo "$root"
    exit
fi
echo "Building Kubernetes' programs into $root: about 8 minutes and 5 GB of Go's caches, once ..." >&2

building="$root.building"
log="$tools/kubernetes-build.log"
rm -rf "$building"
mkdir "$building"
: >"$log"

# build PROGRAM PACKAGE MODULE_FOLDER LINKER_FLAG...
build() {
    program=$1 package=$2 folder=$3 began=$(date +%s)
    shift 3
    (cd "$folder" && nice go build -p "$JOBS" -trimpath -ldflags "$STRIPPED $*" -o "$building/$program" "$package") >>"$log" 2>&1 || {
        tail -n 20 "$log" >&2
        fail "$program was not built; all that was said is in $log"
    }
    echo "  $program: $(($(date +%s) - began)) s" >&2
}

# Without these the server says that it is v0.0.0-master, and clients believe it.
version=$(cd "$pins" && go list -m -f '{{.Version}}' k8s.io/kubernetes)
minor=$(echo "$version" | cut -d . -f 2)
versions=
for package in k8s.io/component-base/version k8s.io/client-go/pkg/version; do
    versions="$versions -X $package.gitVersion=$version -X $package.gitMajor=1 -X $package.gitMinor=$minor"
done

build etcd go.etcd.io/etcd/server/v3 "$pins/etcd"
for program in kube-apiserver kube-controller-manager kubectl; do
    # shellcheck disable=SC2086 # They are words.
    build "$program" "k8s.io/kubernetes/cmd/$program" "$pins" $versions
done

# The name appears with all programs or not at all, so a build cut off does not count.
mv "$building" "$root"
echo "$root"
