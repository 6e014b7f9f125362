#!/bin/sh
# Unpacks Debian packages that cannot be installed beside others (OpenSMTPD beside Postfix) into a cache, each into
# .cache/unpacked/PACKAGE, with the libraries of theirs that this machine lacks. Nothing is installed.
#
#     sh tools/unpack.sh [PACKAGE...]      without a name: those that the tests use
#
# It downloads only when CI or APT=1 asks for it. What could not be had is named; the tests name what they left out.
set -eu
cd "$(dirname "$0")/.."

[ $# -gt 0 ] || set -- opensmtpd
cache=$PWD/.cache/unpacked

# lacking PACKAGE: the libraries it depends on that are not installed.
lacking() {
    apt-cache depends --no-recommends --no-suggests --no-conflicts --no-breaks --no-replaces --no-enhances "$1" |
        sed -n 's/^ *|*Depends: \(lib[^ ]*\)$/\1/p' |
        while read -r library; do
            dpkg-query -W -f '${Status}' "$library" 2>/dev/null | grep -q 'ok installed' || echo "$library"
        done
}

# fetch PACKAGE: into a folder that gets its name only when it is whole.
fetch() {
    rm -rf "$cache/$1.new"
    mkdir -p "$cache/$1.new"
    # shellcheck disable=SC2046  # one word per package
    (cd "$cache/$1.new" && apt-get -q -o Acquire::Retries=3 download "$1" $(lacking "$1") </dev/null &&
        for file in *.deb; do dpkg -x "$file" . || exit 1; done && rm -f -- *.deb) || return 1
    mv "$cache/$1.new" "$cache/$1"
}

failed=0
for package; do
    [ ! -d "$cache/$package" ] || continue
    if ! command -v apt-get >/dev/null 2>&1 || { [ -z "${CI:-}" ] && [ "${APT:-}" != 1 ]; }; then
        echo "Left out, because not unpacked: $package (on Debian or Ubuntu: make test APT=1)"
        continue
    fi
    echo "Unpacking: $package"
    # An old list names versions that are gone: then it is fetched anew, which only root can do.
    if ! fetch "$package" && ! { apt-get -q update </dev/null && fetch "$package"; }; then
        echo "Left out, because apt-get could not download it: $package" >&2
        rm -rf "$cache/$package.new"
        failed=1
    fi
done
exit $failed
