#!/bin/sh
# venv.sh PYTHON DIRECTORY: make a virtual environment; on Debian without python3-venv, as root, install that first.
set -eu
python=$1 directory=$2
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "warpgate needs Python 3.11 or newer; $python is $("$python" --version). Try: make PYTHON=python3.12" >&2
    exit 1
}
[ -x "$directory/bin/python" ] && exit 0
if ! "$python" -c 'import ensurepip' 2>/dev/null && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends python3-venv >/dev/null
fi
exec "$python" -m venv "$directory"
