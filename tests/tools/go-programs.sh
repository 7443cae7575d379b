# Programs out of pinned Go modules, built once into a folder outside the clone. Sourced by kubernetes.sh and helm.sh.
# shellcheck shell=sh
#
#   begin NAME COST "$@"    prints the folder of the programs and ends the script, if they are built; else prepares the build.
#                           With --find nothing is built: it fails if they are not there.
#   build PROGRAM PACKAGE MODULE_FOLDER LINKER_FLAG...
#   finish                  makes all of them appear at once, and prints their folder

# Without C the programs run on any Linux, and no compiler but Go's is needed.
export CGO_ENABLED=0
# What a person has set for Go must not change what is built.
export GOFLAGS=-buildvcs=false GOWORK=off
STRIPPED="-s -w"
# Two compilers at a time: more only fight over a small machine, and linking takes 1 GB each.
JOBS=2

tools="${XDG_CACHE_HOME:-${HOME:?is not set}/.cache}/backupmx/tools"
script=$(basename "$0")

fail() {
    echo "$script: $*" >&2
    exit 1
}

begin() {
    name=$1 cost=$2 order=${3:-}
    pins=$(cd "$(dirname "$0")/$name" && pwd)
    # Whatever is pinned, and the script that says how it is built.
    key=$(cd "$pins" && { find . -name 'go.*' -o -name '*.go' | LC_ALL=C sort | xargs cat; cat "../$script"; echo "$STRIPPED"; } |
        sha256sum | cut -c 1-16)
    root="$tools/$name-$key"
    print_if_built
    [ "$order" != --find ] || fail "its programs are not in $root: \`make test\` builds them (or run tests/tools/$script)"
    command -v go >/dev/null || fail "install Go 1.26 or newer and put it on PATH: it builds what the tests need"
    answer=$(cd "$pins" && first=$(find . -name go.mod | LC_ALL=C sort | head -n 1) && cd "$(dirname "$first")" && go list -m 2>&1) ||
        fail "install Go 1.26 or newer; the one on PATH says: $answer"

    mkdir -p "$tools"
    # Whoever comes second waits, and finds the programs there.
    exec 9>"$tools/$name-lock"
    flock 9
    print_if_built
    echo "Building the programs of $script into $root: $cost, once ..." >&2
    building="$root.building"
    log="$tools/$name-build.log"
    rm -rf "$building"
    mkdir "$building"
    : >"$log"
}

print_if_built() {
    if [ -d "$root" ]; then
        echo "$root"
        exit
    fi
}

build() {
    program=$1 package=$2 folder=$3 began=$(date +%s)
    shift 3
    (cd "$folder" && nice go build -p "$JOBS" -trimpath -ldflags "$STRIPPED $*" -o "$building/$program" "$package") >>"$log" 2>&1 || {
        tail -n 20 "$log" >&2
        fail "$program was not built; all that was said is in $log"
    }
    echo "  $program: $(($(date +%s) - began)) s" >&2
}

# The name appears with all programs or not at all, so a build cut off does not count.
finish() {
    mv "$building" "$root"
    echo "$root"
}

# The version of MODULE that FOLDER pins.
version_of() { # MODULE FOLDER
    (cd "$2" && go list -m -f '{{.Version}}' "$1")
}
