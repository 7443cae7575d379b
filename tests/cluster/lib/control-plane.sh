# etcd, API server, controller manager and scheduler, with their flags.

start_control_plane() { # BIND_ADDRESS ADVERTISE_ADDRESS [API_SERVER_FLAG...]
  start_etcd
  await 30 etcd curl --silent --fail http://127.0.0.1:2379/health
  start_apiserver "$@"
  await 90 kube-apiserver api /readyz
  start_controller_manager
  start_scheduler
}

start_etcd() {
  local flags=(
    --name=only
    --data-dir="$RUN/etcd"
    --unsafe-no-fsync               # nothing here must outlive the machine
    --listen-client-urls=http://127.0.0.1:2379
    --advertise-client-urls=http://127.0.0.1:2379
    --listen-peer-urls=http://127.0.0.1:2380
    --initial-advertise-peer-urls=http://127.0.0.1:2380
    --initial-cluster=only=http://127.0.0.1:2380
    --log-level=warn
  )
  start etcd etcd "${flags[@]}"
}

start_apiserver() { # BIND_ADDRESS ADVERTISE_ADDRESS [FLAG...]
  local flags=(
    --bind-address="$1"
    --advertise-address="$2"
    --secure-port="$CLUSTER_PORT"
    --etcd-servers=http://127.0.0.1:2379
    --service-cluster-ip-range="$SERVICE_CIDR"
    --authorization-mode=Node,RBAC
    --enable-admission-plugins=NodeRestriction
    --allow-privileged=true         # Pod Security is what forbids privileged pods
    --event-ttl=2h                  # longer than a test run
    --client-ca-file="$PKI/ca.crt"
    --tls-cert-file="$PKI/apiserver.crt"
    --tls-private-key-file="$PKI/apiserver.key"
    --service-account-issuer=https://kubernetes.default.svc.cluster.local
    --service-account-key-file="$PKI/sa.pub"
    --service-account-signing-key-file="$PKI/sa.key"
    # For logs, exec and port-forward the API server is a client of the kubelet.
    --kubelet-client-certificate="$PKI/apiserver-kubelet-client.crt"
    --kubelet-client-key="$PKI/apiserver-kubelet-client.key"
    --kubelet-certificate-authority="$PKI/ca.crt"
    --kubelet-preferred-address-types=InternalIP
  )
  shift 2
  start kube-apiserver kube-apiserver "${flags[@]}" "$@"
}

start_controller_manager() {
  local flags=(
    --kubeconfig="$PKI/controller-manager.kubeconfig"
    --bind-address=127.0.0.1
    --leader-elect=false            # there is only one: no waiting for a lease
    --use-service-account-credentials=true
    --service-account-private-key-file="$PKI/sa.key"
    --root-ca-file="$PKI/ca.crt"
    --cluster-signing-cert-file="$PKI/ca.crt"
    --cluster-signing-key-file="$PKI/ca.key"
    --flex-volume-plugin-dir="$RUN/flex"    # else it makes a folder in /usr/libexec
    # The defaults (20 and 30 a second) delay tests that make many objects.
    --kube-api-qps=300
    --kube-api-burst=600
  )
  start kube-controller-manager kube-controller-manager "${flags[@]}"
}

start_scheduler() {
  local flags=(
    --kubeconfig="$PKI/scheduler.kubeconfig"
    --bind-address=127.0.0.1
    --leader-elect=false
    --kube-api-qps=300
    --kube-api-burst=600
  )
  start kube-scheduler kube-scheduler "${flags[@]}"
}

await_controllers() {
  await 30 kube-controller-manager curl --silent --fail --insecure https://127.0.0.1:10257/healthz
  await 30 kube-scheduler curl --silent --fail --insecure https://127.0.0.1:10259/healthz
  # The controllers make it; without it no pod can be created.
  await 30 kube-controller-manager api /api/v1/namespaces/default/serviceaccounts/default
}
