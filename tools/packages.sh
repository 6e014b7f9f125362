#!/bin/sh
# Installs the Debian packages of tools/packages.txt that are missing; says what is left out where it may not.
#
# It installs only as root and when CI or APT=1 asks for it. A policy for the time of the installation starts no
# service. Left-out programs are no error here: the tests name what they could not use, and in CI they fail.
set -eu
cd "$(dirname "$0")/.."

list=${PACKAGES:-tools/packages.txt}
missing=""
while read -r program package; do
    case $program in "" | "#"*) continue ;; esac
    command -v "$program" >/dev/null 2>&1 || missing="$missing $package"
done <"$list"
missing=${missing# }
[ -n "$missing" ] || exit 0

if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null 2>&1 || { [ -z "${CI:-}" ] && [ "${APT:-}" != 1 ]; }; then
    echo "Left out, because not installed: $missing"
    echo "On Debian or Ubuntu, as root: make test APT=1   (or: apt install $missing)"
    exit 0
fi

# invoke-rc.d asks this file before it starts anything; 101 means "action forbidden by policy".
policy=${POLICY:-/usr/sbin/policy-rc.d}
kept=$policy.before-posthouse
restore() {
    rm -f "$policy"
    [ ! -e "$kept" ] || mv "$kept" "$policy"
}
[ ! -e "$kept" ] || restore # a run before this one was killed half-way
[ ! -e "$policy" ] || mv "$policy" "$kept"
trap restore EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM
printf '#!/bin/sh\nexit 101\n' >"$policy"
chmod 755 "$policy"

export DEBIAN_FRONTEND=noninteractive
apt() {
    apt-get -q -o Acquire::Retries=3 -o DPkg::Lock::Timeout=120 -o Dpkg::Use-Pty=0 "$@" </dev/null
}

echo "Installing: $missing"
for attempt in 1 2 3; do
    # An old list names versions that are gone, so it is fetched anew each time.
    # shellcheck disable=SC2086  # one word per package
    if apt update && apt install -y --no-install-recommends $missing; then
        exit 0
    fi
    echo "Attempt $attempt to install the packages failed." >&2
    sleep $((attempt * 5))
done
echo "Left out, because apt-get could not install it: $missing" >&2
exit 1
