#!/bin/sh
# Prints the newest Python that can run Posthouse, or says what to install.
#
# A name on the PATH proves nothing (version managers leave stubs there), so every candidate is started.
set -eu

found=""
for name in "${PYTHON:-}" python3.14 python3.13 python3.12 python3.11 python3 python; do
    [ -n "$name" ] || continue
    command -v "$name" >/dev/null 2>&1 || continue
    version=$("$name" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || continue
    case $version in
    3.1[1-9] | 3.[2-9][0-9]) ;;
    *)
        found="$found $name is $version;"
        continue
        ;;
    esac
    if "$name" -c 'import ensurepip, venv' 2>/dev/null; then
        echo "$name"
        exit 0
    fi
    found="$found $name ($version) lacks the venv module;"
    lacks=${lacks:-$version}
done

{
    if [ -n "${lacks:-}" ]; then
        echo "Posthouse needs Python's venv module, and this Python comes without it:$found"
        echo "Install it and start again:"
        echo "    Debian, Ubuntu:  apt install python3-venv    (or python$lacks-venv for that version)"
        echo "    elsewhere:       the package that brings Python's venv and ensurepip modules"
    elif [ -n "$found" ]; then
        echo "Posthouse needs Python 3.11 or newer, and only older ones are here:$found"
        echo "Install a newer one and start again, or name it: make run PYTHON=/path/to/python3"
        echo "    Debian 12, Ubuntu 24.04 and newer:  apt install python3 python3-venv"
    else
        echo "Posthouse needs Python 3.11 or newer, and no Python was found."
        echo "Install it and start again:"
        echo "    Debian, Ubuntu:  apt install python3 python3-venv"
        echo "    Fedora:          dnf install python3"
        echo "    macOS, Windows:  the installer of python.org"
    fi
} >&2
exit 1
