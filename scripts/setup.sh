#!/bin/sh
# Make .venv with everything that this clone needs, or complete it; a second call has nothing to do.
# Needs Python 3.11 or newer. Uses uv from PATH, or installs it into the cache.
set -eu
cd "$(dirname "$0")/.."

cache=${RUNYARD_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/runyard}
is_usable='import sys; sys.exit(sys.version_info < (3, 11))'
stamp=.venv/made-for-$(cksum <pyproject.toml | cut -d ' ' -f 1)

fail() {
    echo "setup: $*" >&2
    exit 1
}

is_made() {
    [ -f "$stamp" ] && .venv/bin/python -c "$is_usable" 2>/dev/null
}

find_python() {
    for name in ${PYTHON:-} python3 python3.14 python3.13 python3.12 python3.11; do
        if "$name" -c "$is_usable" 2>/dev/null; then
            command -v "$name"
            return
        fi
    done
    fail "Python 3.11 or newer is not on PATH ($(python3 --version 2>&1)). Install one, say with" \
        "'apt-get install python3.11 python3.11-venv', or name it: make PYTHON=/path/to/python3.12"
}

# Debian's python3 may come without ensurepip, without pip, or without both.
install_uv() {
    bootstrap=$cache/bootstrap
    echo "setup: installing uv into $bootstrap" >&2
    rm -rf "$bootstrap"
    mkdir -p "$cache"
    if "$python" -m venv "$bootstrap" >/dev/null 2>&1; then
        "$bootstrap/bin/python" -m pip install --quiet --disable-pip-version-check uv >&2
    elif "$python" -m pip --version >/dev/null 2>&1; then
        rm -rf "$bootstrap"
        "$python" -m venv --without-pip "$bootstrap"
        "$python" -m pip --python "$bootstrap/bin/python" install --quiet --disable-pip-version-check uv >&2
    elif "$python" -m virtualenv --quiet "$bootstrap" >/dev/null 2>&1; then
        "$bootstrap/bin/python" -m pip install --quiet --disable-pip-version-check uv >&2
    else
        fail "$python can neither make a virtual environment nor install packages: 'apt-get install python3-venv'"
    fi || fail "uv could not be installed: check the network, or install uv yourself"
}

find_uv() {
    if uv --version >/dev/null 2>&1; then
        command -v uv
        return
    fi
    "$cache/bootstrap/bin/uv" --version >/dev/null 2>&1 || install_uv
    echo "$cache/bootstrap/bin/uv"
}

make_venv() {
    python=$(find_python)
    uv=$(find_uv)
    export UV_PYTHON_DOWNLOADS=never UV_SYSTEM_CERTS=true
    if ! .venv/bin/python -c "$is_usable" 2>/dev/null; then
        rm -rf .venv
        "$uv" venv --quiet --python "$python" .venv
    fi
    echo "setup: installing packages into .venv (a few minutes the first time: torch alone is 2 GB)" >&2
    # Compiled now: uv leaves it to the first import, and a pod, which may not write here, would compile torch at each start.
    "$uv" pip install --quiet --compile-bytecode --python .venv/bin/python --editable '.[dev]'
    rm -f .venv/made-for-*
    touch "$stamp"
}

is_made && exit 0
# Two makes at once would install over each other.
exec 9>"${TMPDIR:-/tmp}/runyard-setup-$(pwd | cksum | cut -d ' ' -f 1).lock"
flock 9 2>/dev/null || true
is_made || make_venv
