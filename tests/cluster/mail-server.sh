#!/bin/bash
# mail-server.sh: the image localhost/mail-server:1, a Postfix made from the files of this machine's Debian packages. It stands for
# "your mail server" in examples/sidecar.yaml. Its settings are its user's to mount, and to name by `postfix -c`.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib/common.sh"

# Postfix, and what its start script calls.
PACKAGES=(postfix dash coreutils diffutils sed grep findutils mawk)

main() {
  local archive=$IMAGES/localhost_mail-server_1.tar
  [ ! "$archive" -nt /usr/sbin/postfix ] || [ ! "$archive" -nt "${BASH_SOURCE[0]}" ] || return 0
  ROOT_FOLDER=$(mktemp -d)
  trap 'rm -rf "$ROOT_FOLDER"' EXIT
  make_folders
  files_of_packages | copy
  libraries | copy
  ln -s mawk "$ROOT_FOLDER/usr/bin/awk"    # what Debian's alternatives do
  # Names and numbers of the users that Postfix runs as.
  cp /etc/passwd /etc/group /etc/services "$ROOT_FOLDER/etc/"
  echo "hosts: files dns" >"$ROOT_FOLDER/etc/nsswitch.conf"
  cat >"$ROOT_FOLDER/Dockerfile" <<'DOCKERFILE'
FROM scratch
COPY . /
ENTRYPOINT ["/usr/sbin/postfix", "start-fg"]
DOCKERFILE
  "$ROOT/image.sh" localhost/mail-server:1 "$ROOT_FOLDER"
}

make_folders() {
  local name
  mkdir -p "$ROOT_FOLDER"/{etc,tmp,var/lib/postfix,var/log,var/spool/postfix,usr/bin,usr/sbin,usr/lib,usr/lib64}
  chmod 755 "$ROOT_FOLDER"
  chmod 1777 "$ROOT_FOLDER/tmp"
  # As on the machine: /bin is /usr/bin.
  for name in bin sbin lib lib64; do ln -s "usr/$name" "$ROOT_FOLDER/$name"; done
}

files_of_packages() {
  local file
  dpkg -L "${PACKAGES[@]}" | grep -v -E '^/usr/share/(doc|man|locale|lintian|info|bug)|^/etc/(init|network|ppp|insserv|resolvconf|rsyslog|ufw)|[.]a$' |
    while read -r file; do
      [ ! -f "$file" ] || echo "$file"
    done
}

libraries() {
  find "$ROOT_FOLDER"/usr/{bin,sbin,lib/postfix} -type f | while read -r program; do
    ldd "${program#"$ROOT_FOLDER"}" 2>/dev/null | grep -o '/[^ ]*' || true
  done | sort -u
}

copy() {
  tar --create --absolute-names --dereference --files-from - | tar --extract --absolute-names --keep-directory-symlink \
    --transform "s,^,$ROOT_FOLDER,"
}

main
