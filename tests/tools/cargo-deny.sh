#!/bin/sh
# Prints where cargo-deny of the pinned version is. Builds it first if it is not there: outside the clone, once.
# Nothing in the clone or its build folder is touched, and no cargo-deny of the person's own is used or replaced.
set -eu

# Another version may judge otherwise and knows other keys: deny.toml is written for this one.
VERSION=0.20.2

tools="${XDG_CACHE_HOME:-$HOME/.cache}/backupmx/tools"
root="$tools/cargo-deny-$VERSION"
binary="$root/bin/cargo-deny"

if [ ! -x "$binary" ]; then
    echo "Building cargo-deny $VERSION into $root: some minutes, once ..." >&2
    # Here rather than in /tmp, which may be small, and because the last step has to stay within one file system.
    mkdir -p "$root/bin"
    work=$(mktemp -d "$tools/building.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    trap 'exit 1' HUP INT TERM
    cd "$(dirname "$0")" # rust-toolchain.toml counts from here: the compiler is ours
    # Its own release profile optimises for minutes what runs for one second.
    CARGO_TARGET_DIR="$work/target" CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 \
        cargo install --quiet --locked "cargo-deny@$VERSION" --root "$work" >&2
    # The name appears with the whole file or not at all, so a build cut off does not count, and two at once do no harm.
    mv "$work/bin/cargo-deny" "$binary"
fi

echo "$binary"
