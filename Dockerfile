# The images of relay and operator: a static program, the authorities that it trusts, nothing else. No shell, nothing to pull.
# `make image` builds the programs and then both targets with docker, podman or buildah; its folder target/image is the context.
FROM scratch AS base
COPY ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
# Any number but 0 would do; with a number Kubernetes can tell that it is not root.
USER 65532:65532

FROM base AS relay
COPY backupmx-relay /usr/bin/backupmx-relay
# SMTP, /metrics and /status, admin API.
EXPOSE 2525 9125 8025
ENTRYPOINT ["/usr/bin/backupmx-relay"]

FROM base AS operator
COPY backupmx-operator /usr/bin/backupmx-operator
# /metrics, /healthz, /readyz.
EXPOSE 9126
ENTRYPOINT ["/usr/bin/backupmx-operator"]
