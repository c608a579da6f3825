#!/usr/bin/env bash
# Makes a PgBouncer that knows prepared statements in transaction mode (1.21 or newer):
#
#     PGBOUNCER=$(bash tools/gen_durable_postgres/fetch_pgbouncer.sh /tmp/pgbouncer) cargo test -p gen_durable_tests --test it pooler
#
# Prints the program's path. One that is installed and new enough is taken as it is. Otherwise the
# source of Debian's stable release is compiled, as an older release has an older one: that needs apt
# with a Debian mirror, dpkg-dev, gcc, make, pkg-config, libevent-dev and libssl-dev, and half a minute.
# DIR must be reachable for the user `postgres` if root runs the tests, which excludes root's home.
set -euo pipefail

if [[ $# -ne 1 ]]; then
    sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}" >&2
    exit 2
fi
mkdir -p "$1"
dir=$(cd "$1" && pwd)

new_enough() {
    local version
    version=$("$1" --version 2>/dev/null | sed -n 's/^PgBouncer //p')
    [[ -n $version && $(printf '1.21\n%s\n' "$version" | sort -V | head -1) == 1.21 ]]
}

for program in "$dir/pgbouncer" "$(command -v pgbouncer || true)"; do
    if [[ -n $program ]] && new_enough "$program"; then
        echo "$program"
        exit 0
    fi
done

work=$(mktemp -d "$dir/fetch.XXXXXX")
trap 'rm -rf "$work"' EXIT
# The mirror that this machine has, asked for another release, with lists of our own: nothing of the
# machine's own apt is changed.
mirror=$(apt-get indextargets --format '$(LABEL) $(REPO_URI)' 'Created-By: Packages' |
    sed -n 's/^Debian //p' | head -1)
[[ -n $mirror ]] || {
    echo "apt knows no Debian mirror (run apt-get update first); install PgBouncer 1.21 or newer by hand" >&2
    exit 1
}
mkdir -p "$work/lists/partial" "$work/archives/partial"
echo "deb-src $mirror stable main" >"$work/sources.list"
apt=(apt-get -q -o "Dir::Etc::SourceList=$work/sources.list" -o Dir::Etc::SourceParts=/dev/null
    -o "Dir::State::Lists=$work/lists" -o "Dir::Cache=$work" -o APT::Sandbox::User=
    -o Acquire::Retries=3)
(
    cd "$work"
    "${apt[@]}" update
    # Checks the archive's signature and unpacks, with Debian's patches.
    "${apt[@]}" source pgbouncer
    cd pgbouncer-*/
    ./configure --without-cares --without-pam --without-systemd
    make -j2 pgbouncer
    mv pgbouncer "$dir/pgbouncer"
) >"$work/log" 2>&1 || {
    tail -30 "$work/log" >&2
    exit 1
}
new_enough "$dir/pgbouncer" || {
    echo "what was compiled is too old: $("$dir/pgbouncer" --version | head -1)" >&2
    exit 1
}
chmod a+rx "$dir" "$dir/pgbouncer"
echo "$dir/pgbouncer"
