# Unpacks the server of the system's own Debian mirror into ./server, and installs nothing.
#
# This needs no rights: apt's lists and the packages are copies in the working directory. apt checks
# the signature of the lists, and the checksum of each package by them. It names the packages that
# `apt-get install postgresql` would bring; those with programs and libraries are unpacked.
set -eu

cat >apt.conf <<CONF
Dir::State::Lists "$PWD/lists";
Dir::Cache "$PWD/cache";
Debug::NoLocking "true";
APT::Sandbox::User "";
Acquire::Languages "none";
Acquire::GzipIndexes "true";
Dir::Cache::pkgcache "";
Dir::Cache::srcpkgcache "";
Acquire::Retries "1";
Acquire::http::Timeout "20";
Acquire::https::Timeout "20";
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
CONF
mkdir -p lists/partial cache/archives/partial packages server/libraries

# One of many sources may be out of reach: the next command tells whether it was needed.
apt-get -q -c "$PWD/apt.conf" update || true
apt-get -qs -c "$PWD/apt.conf" --no-install-recommends install postgresql >plan

# libc is never replaced. LLVM compiles expensive queries: it is half of the download, and a server
# without it interprets them. Perl is for scripts that manage clusters.
wanted=$(sed -n 's/^Inst \([^ ]*\) .*/\1/p' plan |
    grep -E '^(lib.*|postgresql(-client)?-[0-9]+)$' |
    grep -Ev '^lib(c6|c-.*|llvm.*|z3-4|perl.*|.*-perl)$') || true
case "$wanted" in
    *postgresql-[0-9]*) ;;
    *)
        # dpkg takes the server for installed, though its programs are not where they belong.
        echo "apt has no server to fetch: apt-get install --reinstall postgresql may mend it" >&2
        exit 1
        ;;
esac
(
    cd packages
    # Names of packages, one word each.
    # shellcheck disable=SC2086
    apt-get -q -c ../apt.conf download $wanted
)
for package in packages/*.deb; do
    dpkg-deb -x "$package" server
done

cd server
ln -s usr/lib/postgresql/*/bin bin
rm -rf usr/lib/postgresql/*/lib/bitcode usr/lib/postgresql/*/lib/llvmjit*
for library in lib/*-linux-*/*.so.* usr/lib/*-linux-*/*.so.*; do
    if [ -e "$library" ]; then
        ln -sf "../$library" libraries/
    fi
done
