#!/usr/bin/env bash
# Tries the first minute of a newcomer: bash tools/gen_durable_postgres/bare_root.sh DIR
#
# Makes a minimal Debian in DIR/root with gcc and git: no Postgres, no Python, no Node, no locales. It
# lends that root this machine's Rust toolchain and a copy of its downloaded crates, clones the last
# commit, and runs there
#
#   1. an example where CI is set, which has to name the ways out;
#   2. an example as an ordinary user, which has to fetch a server;
#   3. the example again, which has to take it from the cache;
#   4. a few tests;
#   5. the example as root, who has a cache of its own.
#
# Needs root, debootstrap, a Debian mirror, and crates that are downloaded already (cargo fetch). DIR is
# not on a file system that forbids devices or programs. A second run takes what the first one built;
# `rm -rf DIR` removes it all. Mounts are private to the script and end with it. No check runs this: it
# takes minutes, and its servers are a mirror's.
#
# SUITE (this machine's, or bookworm) and MIRROR (this machine's) choose another Debian.
set -euo pipefail

if [[ $# -ne 1 ]]; then
    sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}" >&2
    exit 2
fi
if [[ -z ${BARE_ROOT_MOUNTS:-} ]]; then
    BARE_ROOT_MOUNTS=private exec unshare --mount --propagation private bash "${BASH_SOURCE[0]}" "$@"
fi
clone=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
mkdir -p "$1"
dir=$(cd "$1" && pwd)
root=$dir/root
suite=${SUITE:-$(sed -n 's/^VERSION_CODENAME=//p' /etc/os-release)}

# The Debian mirror that this machine's apt has.
machines_mirror() {
    apt-get indextargets --format '$(LABEL) $(REPO_URI)' 'Created-By: Packages' |
        sed -n 's/^Debian //p' | head -1
}

if [[ ! -e $dir/complete ]]; then
    rm -rf "$root"
    debootstrap --variant=minbase --include=gcc,libc6-dev,git,ca-certificates \
        "${suite:-bookworm}" "$root" "${MIRROR:-$(machines_mirror)}"
    chroot "$root" useradd --create-home newcomer
    touch "$dir/complete"
fi
home=$root/home/newcomer
mkdir -p "$root/opt/rust" "$home/.cargo"
mount --bind "$(cd "$clone" && rustc --print sysroot)" "$root/opt/rust"
mount --rbind /dev "$root/dev"
mount -t proc proc "$root/proc"
cp -ru "${CARGO_HOME:-$HOME/.cargo}/registry" "$home/.cargo/"
rm -rf "$home/gen_durable" "$home/.cache" "$root/var/cache/gen_durable"
git clone -q --no-hardlinks "$clone" "$home/gen_durable"
chroot "$root" chown -R newcomer: /home/newcomer

# Runs a command in the clone, with nothing of this machine's environment but its proxies.
inside() {
    local user=$1
    shift
    local variables=(HOME="$(chroot "$root" sh -c "echo ~$user")" PATH=/opt/rust/bin:/usr/bin:/bin)
    variables+=(CARGO_HOME=/home/newcomer/.cargo CARGO_TARGET_DIR=/home/newcomer/target CARGO_NET_OFFLINE=true)
    local name
    for name in http_proxy https_proxy no_proxy; do
        [[ -z ${!name:-} ]] || variables+=("$name=${!name}")
    done
    chroot --userspec="$user:$user" "$root" env -i "${variables[@]}" "$@" </dev/null
}

in_clone() {
    inside "$1" sh -c 'cd /home/newcomer/gen_durable && exec "$@"' sh "${@:2}"
}

expect() {
    grep -q "$1" "$dir/said" || {
        echo "it did not say: $1" >&2
        exit 1
    }
}

checkout=(cargo run --quiet --example checkout)
in_clone newcomer cargo build --examples

echo "=== 1. an example where CI is set"
if in_clone newcomer env CI=true "${checkout[@]}" 2>&1 | tee "$dir/said"; then
    echo "it had no server and worked" >&2
    exit 1
fi
expect "GEN_DURABLE_FETCH_POSTGRES=1 allows it"
expect "three ways out"

echo "=== 2. an example"
in_clone newcomer "${checkout[@]}" 2>&1 | tee "$dir/said"
expect "fetching one with apt-get"
expect Receipt

echo "=== 3. the example again"
in_clone newcomer "${checkout[@]}" 2>&1 | tee "$dir/said"
expect Receipt
if grep -q fetching "$dir/said"; then
    echo "it fetched another one" >&2
    exit 1
fi

echo "=== 4. tests"
in_clone newcomer cargo test --quiet --package gen_durable_postgres
in_clone newcomer cargo test --quiet --package gen_durable_tests --test it -- outcomes::

echo "=== 5. an example as root"
in_clone root "${checkout[@]}" 2>&1 | tee "$dir/said"
expect "fetching one with apt-get"
expect Receipt
