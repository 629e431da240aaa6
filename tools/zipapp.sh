#!/bin/sh
# tools/zipapp.sh PYTHON TARGET [WHEEL]: the program as one file, with all that it needs, for this system and this minor
# version of Python. Some of it is compiled, and cannot be run out of an archive: the first start unpacks it into ~/.shiv
# (or $SHIV_ROOT). Programs that ours starts, such as the nodes of the lab, find it by PYTHONPATH (--extend-pythonpath).
set -eu
python=$1 target=$2 wheel=${3:-.}
minor=$("$python" -c 'import sys; print("python%d.%d" % sys.version_info[:2])')
"$python" -m shiv.cli --quiet --compressed --reproducible --extend-pythonpath --console-script warpgate \
    --python "/usr/bin/env $minor" --output-file "$target" "$wheel[cli]"
