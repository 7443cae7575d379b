#!/bin/sh
# Puts mail servers beside Postfix whose Debian packages would have to replace it: unpacked, not installed, into the user's
# cache, from where the tests start them. As root on Debian; elsewhere it names them.
set -eu

# The package, and the program in it.
SERVERS="
exim4-daemon-light  usr/sbin/exim4
opensmtpd           usr/sbin/smtpd
"

# tests/support/foreign.rs looks here too.
cache=${XDG_CACHE_HOME:-${HOME:?is not set}/.cache}/backupmx/servers

missing=$(echo "$SERVERS" | while read -r package program; do
    if [ -n "$package" ] && [ ! -x "$cache/$package/$program" ]; then echo "$package"; fi
done | tr '\n' ' ')
missing=${missing% }
if [ -z "$missing" ]; then
    exit 0
fi

if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "The tests need mail servers beside Postfix that are missing in $cache: $missing" >&2
    echo "On Debian, as root: tests/tools/servers.sh" >&2
    exit 1
fi

echo "Fetching mail servers to test with: $missing"
mkdir -p "$cache"
work=$(mktemp -d "$cache/fetching-XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM
# apt-get fetches as a user without rights.
chmod 755 "$work"
cd "$work"
apt-get update --quiet=2
# One folder for each version, so that one that is in use is never written to; the link without a version is what counts.
for package in $missing; do
    if ! apt-get download --quiet=2 "$package" 2>errors; then
        cat errors >&2
        echo "Not fetched: $package" >&2
        exit 1
    fi
    file=$(echo "$package"_*.deb)
    name=$package"_"$(dpkg-deb --field "$file" Version | tr ':' '_')
    dpkg-deb --extract "$file" "$name"
    chmod 755 "$name"
    rm -rf "${cache:?}/$name"
    mv "$name" "$cache/$name"
    echo "$name" >"$package.name"
    # Its libraries are in nobody's way: they are installed.
    dpkg-deb --field "$file" Depends | tr ',' '\n' | sed -n 's/^ *\(lib[^ (:|]*\).*/\1/p' >>libraries
done
libraries=$(while read -r library; do
    if ! dpkg-query --show --showformat='${Status}' "$library" 2>/dev/null | grep -q 'ok installed'; then echo "$library"; fi
done <libraries | sort -u | tr '\n' ' ')
if [ -n "${libraries% }" ]; then
    echo "Installing their libraries: ${libraries% }"
    # shellcheck disable=SC2086 # They are words.
    DEBIAN_FRONTEND=noninteractive apt-get install --quiet=2 --yes --no-install-recommends --no-remove $libraries || {
        echo "Not installed: ${libraries% }" >&2
        exit 1
    }
fi
for package in $missing; do
    ln -sfn "$(cat "$package.name")" "$cache/$package"
done
