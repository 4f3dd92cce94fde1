#!/usr/bin/env bash
# Makes the virtual environment; on a minimal Debian or Ubuntu also installs missing system packages, if that is allowed.
set -euo pipefail
venv=$1

say() { printf 'setup: %s\n' "$*" >&2; }

find_python() {
    local candidate
    for candidate in ${PYTHON:-} python3.12 python3.11 python3.13 python3; do
        if "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then
            "$candidate" -c 'import sys; print(sys.executable)'
            return
        fi
    done
}

# system_packages PACKAGE...: by apt where we are root or may become it without a password
system_packages() {
    local become=""
    [ "$(id -u)" = 0 ] || become="sudo -n"
    if command -v apt-get >/dev/null && { [ -z "$become" ] || $become true 2>/dev/null; }; then
        say "installing $* with apt-get"
        $become apt-get install -y -q "$@" >/dev/null 2>&1 ||
            { $become apt-get update -q >/dev/null && $become apt-get install -y -q "$@" >/dev/null; }
    else
        say "the system lacks $*; install them, on Debian or Ubuntu with: sudo apt-get install $*"
        return 1
    fi
}

python=$(find_python)
if [ -z "$python" ]; then
    system_packages python3 python3-venv
    python=$(find_python)
fi
if [ -z "$python" ]; then
    say "Python 3.11 to 3.13 is needed and none was found; name one with: make setup PYTHON=/path/to/python"
    exit 1
fi
"$python" -c 'import ensurepip, venv' 2>/dev/null ||
    system_packages "python$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')-venv"
# the scene is drawn off-screen by Mesa, and the panel of the tests by Qt
needed='import ctypes; [ctypes.CDLL(f"lib{name}") for name in
    ("EGL.so.1", "GL.so.1", "xkbcommon.so.0", "fontconfig.so.1", "dbus-1.so.3", "glib-2.0.so.0")]'
if [ "$(uname -s)" = Linux ] && ! "$python" -c "$needed" 2>/dev/null; then
    system_packages libegl1 libegl-mesa0 libgl1 libgl1-mesa-dri libxkbcommon0 libfontconfig1 libdbus-1-3 libglib2.0-0 ||
        say "continuing without them: everything works except the pictures and the tests of the panel"
fi

say "making $venv with $("$python" --version)"
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
"$venv/bin/python" -m pip install -q -c Testing/constraints.txt -e '.[scene,demo,dev]'
