#!/bin/sh
# Shows that the crash simulation can fail: breaks one promise of the spool after the other, and asks whether that is noticed.
# Each patch in tests/mutants/, or each one named, goes into a copy of the work tree. Nothing in the clone or its build folder is touched.
set -eu

# As many as `make test` lives through, and in the same lives each time, so that the numbers can be compared.
export CRASHES=20000 SEEDS_FROM=0
# Ten times what an unbroken spool takes: a mutant that hangs is not caught.
SECONDS_MAX=600

root=$(cd "$(dirname "$0")/../.." && pwd)
cache="${XDG_CACHE_HOME:-$HOME/.cache}/backupmx"
tree="$cache/mutants-tree"
logs="$cache/mutants-logs"
export CARGO_TARGET_DIR="$cache/mutants-target"
export GIT_CEILING_DIRECTORIES="$cache" # the copy is no part of a repository that the home folder may be in
unset SEED

mkdir -p "$cache"
exec 9>"$cache/mutants-lock"
flock --nonblock 9 || { echo "make mutants is running already" >&2; exit 1; }
rm -rf "$tree" "$logs"
mkdir -p "$tree" "$logs"
trap 'rm -rf "$tree"' EXIT
trap 'exit 1' HUP INT TERM
# Each file gets a new time: cargo must not take what an earlier run built from a mutant for what stands here now.
(cd "$root" && git ls-files -z --cached --others --exclude-standard | tar --null --files-from - --create --file -) |
    tar --directory "$tree" --extract --touch --file -
cd "$tree"

build() {
    cargo test --quiet --package backupmx-tests --test survives_crashes --no-run 2>&1
}

run() {
    timeout "$SECONDS_MAX" cargo test --quiet --package backupmx-tests --test survives_crashes "$1" -- --nocapture 2>&1
}

echo "unbroken: building, then $CRASHES crashes ..."
if ! { build && run every_recipient; } >"$logs/unbroken.txt"; then
    cat "$logs/unbroken.txt" >&2
    echo "The unbroken spool does not pass: what the mutants do says nothing." >&2
    exit 1
fi
grep ' crashes$' "$logs/unbroken.txt"

echo "disks that lie ..."
run a_disk_that_lies_is_found_out >"$logs/lies.txt" || { cat "$logs/lies.txt" >&2; exit 1; }
grep 'found out after' "$logs/lies.txt" | cut -c 1-150

[ $# -gt 0 ] || set -- $(cd "$root/tests/mutants" && ls *.patch)
count=$#
number=0
missed=0
for name in "$@"; do
    number=$((number + 1))
    name=${name%.patch}
    patch="$root/tests/mutants/$name.patch"
    log="$logs/$name.txt"
    promise=$(sed '/^--- /,$d' "$patch" | tr '\n' ' ' | sed 's/ *$//')
    printf '[%2d/%d] %-30s ' "$number" "$count" "$name"
    if ! git apply "$patch" >"$log" 2>&1; then
        verdict='NOT CAUGHT: the patch does not apply any more'
    else
        if ! build >"$log"; then
            verdict='NOT CAUGHT: does not compile'
        elif run every_recipient >"$log"; then
            verdict="NOT CAUGHT in $CRASHES crashes"
        else
            crashes=$(sed -n 's/^after crash [0-9]* (\([0-9]*\) in all lives).*/\1/p' "$log" | head -n 1)
            verdict=${crashes:+$(printf 'caught after %6d crashes' "$crashes")}
            verdict=${verdict:-NOT CAUGHT: it fails otherwise, or hangs}
        fi
        git apply --reverse "$patch"
    fi
    echo "$verdict: $promise"
    case $verdict in NOT*) missed=$((missed + 1)) ;; esac
done

echo "$((count - missed)) of $count mutants were caught; what was seen of each stands in $logs"
[ "$missed" = 0 ]
