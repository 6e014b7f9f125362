#!/bin/sh
# Makes .venv ready: "run" installs Posthouse alone, "dev" also what its tests and checks need.
#
# Versions are pinned by constraints.txt. A second call with nothing changed ends at once: a stamp in .venv
# holds the checksum of what decides over its content.
set -eu
cd "$(dirname "$0")/.."

what=${1:-run}
case $what in
run) wanted="run" ;;
dev) wanted="dev" ;;
*)
    echo "usage: tools/prepare.sh run|dev" >&2
    exit 64
    ;;
esac

venv=${VENV:-.venv}
python=$venv/bin/python
sum=$(cat pyproject.toml constraints.txt tools/prepare.sh | cksum)
stamp="$(pwd) $sum"

is_stamped() {
    [ -f "$venv/.prepared-$1" ] && [ "$(cat "$venv/.prepared-$1")" = "$stamp" ]
}

# A folder whose Python was removed or upgraded away is no environment any more.
if "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    if is_stamped dev || is_stamped "$wanted"; then
        exit 0
    fi
else
    chosen=$(sh tools/python.sh)
    echo "Making the environment $venv with $chosen ..."
    if ! "$chosen" -m venv --clear "$venv"; then
        echo "Python could not make the environment $venv; its words stand above." >&2
        echo "On Debian and Ubuntu the package is: apt install python3-venv" >&2
        exit 1
    fi
fi

install() {
    log=$venv/.prepare.log
    if "$python" -m pip install --quiet --disable-pip-version-check --no-input -c constraints.txt "$@" >"$log" 2>&1; then
        return 0
    fi
    grep -v '^WARNING: Location' "$log" >&2 || true
    {
        echo
        if grep -qiE 'NewConnectionError|ConnectTimeout|ReadTimeout|Failed to establish|Temporary failure|No matching distribution|ProxyError|SSLError' "$log"; then
            echo "The Python packages that Posthouse needs could not be fetched: the package index was not reached,"
            echo "or it lacks one of them. Check the network (or a proxy in HTTPS_PROXY) and start again. Without a"
            echo "network, fetch them elsewhere and name the folder:"
            echo "    pip download -d wheels -c constraints.txt . 'setuptools>=77'"
            echo "    PIP_NO_INDEX=1 PIP_FIND_LINKS=wheels make run"
        else
            echo "The Python packages that Posthouse needs could not be installed; pip's words stand above."
        fi
    } >&2
    return 1
}

echo "Installing Posthouse into $venv ($what) ..."
rm -f "$venv/.prepared-run" "$venv/.prepared-dev"
if [ "$wanted" = dev ]; then
    # Dependency groups (PEP 735) came with pip 25.1.
    install --upgrade 'pip>=25.1'
    install --editable '.[dialogue]' --group test --group check --group release
else
    install --editable '.[dialogue]'
fi
printf '%s\n' "$stamp" >"$venv/.prepared-$wanted"
