#!/bin/sh
# images.sh [PROFILE]: builds relay and operator as static programs, and from them the images localhost/backupmx-relay and
# localhost/backupmx-operator, tagged with the version, with docker, podman or buildah (ENGINE says which). Nothing is pulled.
# images.sh --programs [PROFILE]: only the programs; prints the folder that the Dockerfile takes as its context.
# images.sh --version: prints the version.
# PROFILE is one of Cargo.toml: release (the default), or ci, which spares the minutes of LTO.
set -eu
cd "$(dirname "$0")"

fail() {
    echo "images.sh: $*" >&2
    exit 1
}

version=$(sed -n '/^\[workspace\.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' Cargo.toml)
if [ "${1:-}" = --version ]; then
    echo "$version"
    exit
fi
programs_only=false
if [ "${1:-}" = --programs ]; then
    programs_only=true
    shift
fi
profile=${1:-release}
# A docker client without its daemon builds nothing.
engine=${ENGINE:-$({ docker info >/dev/null 2>&1 && echo docker; } || command -v podman || command -v buildah)} || $programs_only ||
    fail "install docker (and start it), podman or buildah: one of them makes images of the programs"
authorities=/etc/ssl/certs/ca-certificates.crt
[ -f "$authorities" ] || fail "$authorities is missing: install the package ca-certificates"

# Static without another C library. Without --target the flags would be for procedural macros too, which cannot be static.
target=$(rustc -vV | sed -n 's/^host: //p')
echo "Building relay and operator for images, profile $profile (some minutes the first time) ..." >&2
RUSTFLAGS="-C target-feature=+crt-static" ${CARGO:-cargo} build --quiet --locked --profile "$profile" --target "$target" \
    --package backupmx-relay --package backupmx-operator --bins

built=${CARGO_TARGET_DIR:-target}/$target/$profile
context=${CARGO_TARGET_DIR:-target}/image-$profile
mkdir -p "$context"
install -m 755 "$built/backupmx-relay" "$built/backupmx-operator" "$context/"
install -m 644 "$authorities" "$context/"
if $programs_only; then
    (cd "$context" && pwd)
    exit
fi

for part in relay operator; do
    image=localhost/backupmx-$part:$version
    "$engine" build --file Dockerfile --target "$part" --tag "$image" "$context"
    bytes=$(cat "$context/backupmx-$part" "$context/ca-certificates.crt" | wc -c)
    echo "$image: $((bytes / 1000000)) MB"
done
