#!/bin/sh
# Builds wheel and sdist, has twine check them, and runs the program as users install it, where nothing else is: by pip,
# by pipx, and as a zipapp. Each of the last two plays the demo's first scene, where this machine can have a lab.
set -eu
python=$1
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
unset PYTHONPATH
export WARPGATE_DATA="$folder/data" PATH="$PATH:/usr/sbin"

scene() {
    if command -v mosquitto >/dev/null && command -v turnserver >/dev/null && unshare --user --net true 2>/dev/null; then
        "$1" demo --scene 1
    else
        echo "$1: no lab here (mosquitto, coturn and namespaces), the demo was not played" >&2
    fi
}

"$python" -m build --no-isolation --outdir "$folder/dist" .
"$python" -m build --no-isolation --outdir "$folder/testing" testing
"$python" -m twine check --strict "$folder"/dist/* "$folder"/testing/*
tools/zipapp.sh "$python" "$folder/warpgate.pyz" "$(echo "$folder"/dist/*.whl)"
bin=$(cd "$(dirname "$(command -v "$python")")" && pwd)
cd "$folder"

"$bin/python" -m venv bare
bare/bin/python -m pip install --quiet --disable-pip-version-check dist/*.whl
bare/bin/warpgate id
bare/bin/python -c 'import warpgate; print("warpgate", warpgate.__version__)'
bare/bin/python -m pip install --quiet --disable-pip-version-check testing/*.whl
bare/bin/python -c 'import warpgate_testing; print(warpgate_testing.Pair)'

export PIPX_HOME="$folder/pipx" PIPX_BIN_DIR="$folder/bin" PIPX_MAN_DIR="$folder/man"
"$bin/python" -m pipx install --quiet dist/*.whl
bin/warpgate version
scene bin/warpgate

export SHIV_ROOT="$folder/shiv"
./warpgate.pyz version
scene ./warpgate.pyz
