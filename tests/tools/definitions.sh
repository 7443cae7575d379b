#!/bin/sh
# Prints the folder of the definitions (CRD) of other operators' kinds that ours makes: cert-manager's Certificate and the Prometheus
# operator's PodMonitor, of the versions that definitions/ pins. Fetches them first if they are not there, once. With --find nothing
# is fetched: it fails if they are not there.
set -eu
. "$(dirname "$0")/go-programs.sh"

begin definitions "some seconds" "$@"

# take MODULE FILE
take() {
    file=$(cd "$pins" && go mod download -json "$1" 2>>"$log" | sed -n 's/^.*"Dir": "\(.*\)",*$/\1/p')/$2
    [ -f "$file" ] || fail "$1 has no $2; what was said is in $log"
    # The module cache is read-only, and its files are, too.
    install -m 644 "$file" "$building/"
}

take github.com/cert-manager/cert-manager deploy/crds/cert-manager.io_certificates.yaml
take github.com/prometheus-operator/prometheus-operator example/prometheus-operator-crd/monitoring.coreos.com_podmonitors.yaml
finish
