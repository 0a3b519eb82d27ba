#!/bin/sh
# Installs clients that users have into .venv-sdks, each apart from the others: they want different versions of the
# same libraries. openai-node comes along where there is npm. Ends at once when there is nothing to do.
set -eu
cd "$(dirname "$0")/../../.."
venv=.venv-sdks
sdks=tests/live_ops/sdks
stamp="$venv/.installed"

wanted="$(cat "$sdks"/install.sh "$sdks"/*.txt "$sdks"/*.json | sha256sum) npm: $(command -v npm || true)"
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ]; then
    exit 0
fi
rm -rf "$venv"
for sdk in langchain llamaindex; do
    "${PYTHON:-python3}" -m venv "$venv/$sdk"
    "$venv/$sdk/bin/pip" install -qq --disable-pip-version-check --require-hashes -r "$sdks/requirements-$sdk.txt"
done
if command -v npm >/dev/null; then
    mkdir "$venv/node"
    cp "$sdks"/package*.json "$sdks"/ask_openai.mjs "$venv/node"
    (cd "$venv/node" && npm ci --silent --no-audit --no-fund)
fi
printf '%s\n' "$wanted" >"$stamp"
