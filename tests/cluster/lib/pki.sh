# A certificate authority, certificates and kubeconfigs for one cluster, made anew by each up.sh.

make_pki() {
  rm -rf "$PKI"
  mkdir -m 700 "$PKI"
  issue ca "/CN=kubernetes" -addext "basicConstraints=critical,CA:TRUE" -addext "keyUsage=critical,keyCertSign"

  local api_names="DNS:localhost,IP:127.0.0.1,IP:$NODE_IP,IP:$API_SERVICE_IP"
  api_names+=",DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,DNS:kubernetes.default.svc.cluster.local"
  make_certificate apiserver "/CN=kube-apiserver" serverAuth -addext "subjectAltName=$api_names"
  make_certificate apiserver-kubelet-client "/O=system:masters/CN=kube-apiserver-kubelet-client" clientAuth
  make_certificate kubelet-serving "/CN=$NODE_NAME" serverAuth -addext "subjectAltName=DNS:$NODE_NAME,IP:$NODE_IP"

  # The API server's built-in roles know these user and group names.
  make_user admin "/O=system:masters/CN=kubernetes-admin"
  make_user controller-manager "/CN=system:kube-controller-manager"
  make_user scheduler "/CN=system:kube-scheduler"
  make_user kubelet "/O=system:nodes/CN=system:node:$NODE_NAME"
  make_user proxy "/CN=system:kube-proxy"
  install -m 600 "$PKI/admin.kubeconfig" "$ADMIN_KUBECONFIG"

  # Service account tokens are signed with this pair.
  openssl genrsa -out "$PKI/sa.key" 2048
  openssl rsa -in "$PKI/sa.key" -pubout -out "$PKI/sa.pub"
}

make_user() { # NAME SUBJECT: a client certificate and a kubeconfig with it
  make_certificate "$1" "$2" clientAuth
  cat >"$PKI/$1.kubeconfig" <<YAML
apiVersion: v1
kind: Config
clusters:
- name: backupmx-cluster
  cluster:
    server: https://127.0.0.1:$CLUSTER_PORT
    certificate-authority-data: $(base64 -w0 "$PKI/ca.crt")
users:
- name: $1
  user:
    client-certificate-data: $(base64 -w0 "$PKI/$1.crt")
    client-key-data: $(base64 -w0 "$PKI/$1.key")
contexts:
- name: backupmx-cluster
  context: {cluster: backupmx-cluster, user: $1}
current-context: backupmx-cluster
YAML
}

make_certificate() { # NAME SUBJECT USAGE [FLAG...]
  local name=$1 subject=$2 usage=$3
  shift 3
  issue "$name" "$subject" -CA "$PKI/ca.crt" -CAkey "$PKI/ca.key" \
    -addext "basicConstraints=critical,CA:FALSE" -addext "extendedKeyUsage=$usage" "$@"
}

issue() { # NAME SUBJECT FLAG...: a new key and a certificate for it
  local name=$1 subject=$2
  shift 2
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -noenc -days 365 \
    -subj "$subject" -keyout "$PKI/$name.key" -out "$PKI/$name.crt" "$@"
}
