#!/bin/sh
# Prints the folder of the programs of a Kubernetes, of the versions that kubernetes/ pins: etcd, the server programs, kubelet,
# kube-proxy, kubectl, CoreDNS and pause. Builds them first if they are not there: from Go modules, outside the clone, once.
# With --find nothing is built: it fails if they are not there. A folder named by KUBEBUILDER_ASSETS goes before.
set -eu
. "$(dirname "$0")/go-programs.sh"

if [ -n "${KUBEBUILDER_ASSETS:-}" ]; then
    for program in etcd kube-apiserver kube-controller-manager; do
        [ -x "$KUBEBUILDER_ASSETS/$program" ] ||
            fail "KUBEBUILDER_ASSETS is $KUBEBUILDER_ASSETS, where there is no $program; unset it, or put $program there"
    done
    echo "$KUBEBUILDER_ASSETS"
    exit
fi

begin kubernetes "about 10 minutes and 7 GB of Go's caches" "$@"

# Without these the server says that it is v0.0.0-master, and clients believe it.
version=$(version_of k8s.io/kubernetes "$pins")
versions=
for package in k8s.io/component-base/version k8s.io/client-go/pkg/version; do
    versions="$versions -X $package.gitVersion=$version -X $package.gitMajor=1 -X $package.gitMinor=$(echo "$version" | cut -d . -f 2)"
done

build etcd go.etcd.io/etcd/server/v3 "$pins/etcd"
for program in kube-apiserver kube-controller-manager kube-scheduler kubelet kube-proxy kubectl; do
    # shellcheck disable=SC2086 # They are words.
    build "$program" "k8s.io/kubernetes/cmd/$program" "$pins" $versions
done
build coredns . "$pins/coredns"
build pause . "$pins/pause"
finish
