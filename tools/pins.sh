#!/bin/sh
# Writes constraints.txt anew: the newest versions that pyproject.toml allows, from a fresh environment.
# Run the tests with them before committing.
set -eu
cd "$(dirname "$0")/.."

new=$(mktemp -d)
trap 'rm -rf "$new"' EXIT
cp -R pyproject.toml README.md LICENSE src tools "$new"
: >"$new/constraints.txt"
VENV="$new/.venv" sh "$new/tools/prepare.sh" dev
{
    echo "# The versions that the tests ran with, for a build that comes out the same everywhere."
    echo "# Made by tools/pins.sh from a fresh environment on Python 3.11."
    "$new/.venv/bin/python" -m pip freeze --all --exclude-editable 2>/dev/null | grep -v '^setuptools=='
} >"$new/pins"
mv "$new/pins" constraints.txt
