#!/usr/bin/env bash
# The install step of both images: install.sh FOLDER EXTRA, in a folder with pyproject.toml and the packages.
set -euo pipefail
folder=$1 extra=$2
export UV_LINK_MODE=copy UV_PYTHON_DOWNLOADS=never
uv venv --quiet --python "$(command -v python3.11)" "$folder"
# Not editable: the image holds no source folder. The override of pyproject.toml is read because uv runs in it.
uv pip install --quiet --python "$folder/bin/python" --compile-bytecode ".[$extra,tracking]"
