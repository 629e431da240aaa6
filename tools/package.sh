#!/bin/sh
# Builds wheel and sdist, has twine check them, and runs the program from the wheel in an environment without anything else.
set -eu
python=$1
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"$python" -m build --no-isolation --outdir "$folder/dist" .
"$python" -m twine check --strict "$folder"/dist/*
"$python" -m venv "$folder/bare"
"$folder/bare/bin/python" -m pip install --quiet --disable-pip-version-check "$folder"/dist/*.whl
cd "$folder"
WARPGATE_DATA=$folder/data ./bare/bin/warpgate id
./bare/bin/python -c 'import warpgate; print("warpgate", warpgate.__version__)'
