#!/bin/sh
# Prints the folder of helm and kubeconform, of the versions that helm/ pins. Builds them first if they are not there: from Go
# modules, outside the clone, once. With --find nothing is built: it fails if they are not there.
set -eu
. "$(dirname "$0")/go-programs.sh"

begin helm "about 2 minutes" "$@"
# Without this Helm calls itself v4.1, and charts that ask for a version refuse it.
build helm helm.sh/helm/v4/cmd/helm "$pins" "-X helm.sh/helm/v4/internal/version.version=$(version_of helm.sh/helm/v4 "$pins")"
build kubeconform github.com/yannh/kubeconform/cmd/kubeconform "$pins/kubeconform"
finish
