#!/bin/sh
# Installs the Debian packages that the tests need and that are missing: as root on Debian. Elsewhere it names them.
# Nothing is started, nothing is asked, nothing is removed.
set -eu

# What must be there, and the package that brings it.
NEEDED="
/usr/sbin/postfix      postfix
/usr/sbin/smtp-source  postfix
/usr/sbin/posttls-finger  postfix
/usr/bin/openssl       openssl
/usr/bin/swaks         swaks
/usr/bin/strace        strace
/usr/sbin/mkfs.ext4    e2fsprogs
/usr/sbin/losetup      mount
/usr/bin/mount         mount
/usr/bin/unshare       util-linux
/usr/sbin/ip           iproute2
/usr/bin/faketime      faketime
/usr/bin/lua5.4        lua5.4
/usr/bin/jq            jq
/usr/bin/curl          curl
/usr/bin/socat         socat
/usr/bin/pgrep         procps
/usr/sbin/iptables     iptables
/usr/bin/containerd    containerd
/usr/sbin/runc         runc
/usr/lib/cni/bridge    containernetworking-plugins
/usr/bin/buildah       buildah
"

# Mail servers that the tests start beside Postfix.
servers=$(dirname "$0")/servers.sh

missing=$(echo "$NEEDED" | while read -r file package; do
    if [ -n "$file" ] && [ ! -x "$file" ]; then echo "$package"; fi
done | sort -u | tr '\n' ' ')
missing=${missing% }
if [ -z "$missing" ]; then
    exec "$servers"
fi

# Another mail server would have to go for Postfix: --no-remove makes apt-get refuse that, and the person decides.
command="apt-get install --yes --no-install-recommends --no-remove $missing"

if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "The tests need packages that are missing: $missing" >&2
    echo "On Debian, as root: apt-get update && $command" >&2
    exit 1
fi

# Services stay off: Debian asks this file before it starts one. Somebody else's is respected.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    trap 'rm -f "$policy"' EXIT
    trap 'exit 1' HUP INT TERM
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
fi

# Postfix asks what kind of server it should be: none, the tests bring their own configuration.
if ! dpkg-query --show --showformat='${Status}' postfix 2>/dev/null | grep -q 'ok installed'; then
    echo 'postfix postfix/main_mailer_type select No configuration' | debconf-set-selections
fi

echo "Installing what the tests need: $missing"
export DEBIAN_FRONTEND=noninteractive
apt-get update --quiet=2
if ! $command --quiet=2; then
    echo "Not installed: $missing. If another mail server is in the way, decide which one this machine keeps." >&2
    exit 1
fi
"$servers"
