#!/bin/sh
# Checks the chart as a cluster would: lints it, renders it in each mode, and holds all that comes out, and the examples, against
# the schemas of Kubernetes, strictly. Says what it looked at.
set -eu
cd "$(dirname "$0")/../.."
helm=$(tests/tools/helm.sh)/helm
kubeconform=${helm%/*}/kubeconform
schemas=$(tests/tools/schemas.sh)
chart=charts/backupmx
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM

fail() {
    echo "chart.sh: $*" >&2
    exit 1
}

conform() { # FILE...
    "$kubeconform" -strict -summary -schema-location "$schemas/{{ .ResourceKind }}{{ .KindSuffix }}.json" "$@"
}

render() { # NAME FLAG...: into $work/NAME.yaml
    name=$1
    shift
    "$helm" template backupmx "$chart" --namespace backupmx-system "$@" >"$work/$name.yaml" || fail "$name: not rendered"
    printf '%-16s ' "$name"
    conform "$work/$name.yaml"
}

# Rules but those of the lease, which the chart narrows down to its name.
rules() { # FILE
    sed '/leases/d' "$1" | grep -o '{apiGroups:.*}' | sort
}

# One version everywhere: images are tagged with that of Cargo.toml.
version=$(./images.sh --version)
grep -q "^appVersion: \"$version\"" "$chart/Chart.yaml" || fail "appVersion in $chart/Chart.yaml is not $version, that of Cargo.toml"
grep -q "backupmx-relay:$version\$" examples/sidecar.yaml || fail "examples/sidecar.yaml names another relay than version $version"

"$helm" lint --quiet --strict "$chart"

render default
render two --set replicaCount=2
render namespaced --set watchNamespace=mail
render no-definition --set crds.install=false
# Whatever can be said is said, once.
cat >"$work/values" <<'END'
replicaCount: 2
image: {registry: "registry.example.org:5000", digest: "sha256:0000000000000000000000000000000000000000000000000000000000000000"}
relay: {image: {registry: registry.example.org/mail, tag: "2"}}
imagePullSecrets: [{name: registry}]
serviceAccount: {annotations: {example.org/role: mail}}
networkPolicy:
  from: [{podSelector: {matchLabels: {app.kubernetes.io/name: prometheus}}}]
  egress: [{ports: [{port: 443}, {port: 9125}]}]
podMonitor: {enabled: true, interval: 30s, labels: {release: prometheus}}
podAnnotations: {example.org/note: "1"}
podLabels: {team: mail}
nodeSelector: {kubernetes.io/os: linux}
tolerations: [{key: mail, operator: Exists, effect: NoSchedule}]
affinity: {podAntiAffinity: {requiredDuringSchedulingIgnoredDuringExecution: [{topologyKey: zone, labelSelector: {}}]}}
priorityClassName: system-cluster-critical
END
render all --values "$work/values"

# Where the operator may see one namespace, nothing is given for the whole cluster.
if grep -q '^kind: Cluster' "$work/namespaced.yaml"; then fail "watchNamespace: there is a ClusterRole or its binding"; fi
if grep -q '^kind: CustomResource' "$work/no-definition.yaml"; then fail "crds.install=false: the definition is there"; fi

# The definition comes out as it is, but for annotations and labels.
"$helm" template backupmx "$chart" --show-only templates/crd.yaml |
    sed -e '1,/^# Source:/d' -e '/^  annotations:$/,/^spec:$/{/^spec:$/!d}' >"$work/definition"
[ "$(cat "$work/definition")" = "$(cat crds/backupmx.yaml)" ] ||
    fail "the chart has another definition than crds/backupmx.yaml: make generate"

# The tests run with the rights of tests/operator/rbac.yaml and show that they are enough, so the chart must give the same.
rules tests/operator/rbac.yaml >"$work/tested"
rules "$chart/templates/rbac.yaml" >"$work/given"
diff "$work/tested" "$work/given" || fail "the rights that the tests run with (<) are not those that the chart gives (>)"

# A word that is not known, and a value of another kind, are refused.
for wrong in replicaCounts=2 replicaCount=two image.tag=1 watchNamespace=Mail 'podLabels.app\.kubernetes\.io/name=x'; do
    said=$("$helm" template backupmx "$chart" --set "$wrong" 2>&1 >/dev/null) && fail "--set $wrong is taken"
    echo "$said" | grep -q "specifications of the schema" || fail "--set $wrong is not refused by the schema but: $said"
done

echo "examples:"
for example in examples/*.yaml; do
    if grep -q '^apiVersion:' "$example"; then
        printf '%-16s ' "$example"
        conform "$example"
    fi
done
