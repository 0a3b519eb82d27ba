#!/bin/sh
# Installs vLLM for CPU into .venv-engines, apart from the development environment, which must not carry torch.
# Runs in well under a second when there is nothing to do. Takes no arguments.
set -eu
cd "$(dirname "$0")/../.."
venv=.venv-engines
pins=requirements-engines.txt
stamp="$venv/.installed"
# CPU builds of torch are on no package index, so the machine's pip configuration says where they are
# (PIP_FIND_LINKS or PIP_EXTRA_INDEX_URL). Each Python version has its own build: no hash could be pinned for all.
torch=torch==2.13.0+cpu

wanted="$(cat tests/engines/install.sh "$pins" | sha256sum)"
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ]; then
    exit 0
fi
rm -rf "$venv"
"${PYTHON:-python3}" -m venv "$venv"
# --no-deps: the pins are the whole tree, less what a text model on a CPU never loads.
"$venv/bin/pip" install -qq --disable-pip-version-check --no-deps "$torch"
"$venv/bin/pip" install -qq --disable-pip-version-check --no-deps --require-hashes -r "$pins"
"$venv/bin/python" -c "import vllm.entrypoints.openai.api_server"
printf '%s\n' "$wanted" >"$stamp"
