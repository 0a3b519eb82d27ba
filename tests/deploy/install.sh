#!/bin/sh
# Installs what deployments are checked with into .venv-ops, apart from the development environment: checkov and Helm
# bring much. Schemas of custom resources come along where there is npm. Ends at once when there is nothing to do.
set -eu
cd "$(dirname "$0")/../.."
venv=.venv-ops
crd=tests/deploy/crd
stamp="$venv/.installed"

wanted="$(cat tests/deploy/install.sh requirements-ops.txt "$crd"/* | sha256sum) npm: $(command -v npm || true)"
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ]; then
    exit 0
fi
rm -rf "$venv"
"${PYTHON:-python3}" -m venv "$venv"
"$venv/bin/pip" install -qq --disable-pip-version-check --require-hashes -r requirements-ops.txt
if command -v npm >/dev/null; then
    cp -R "$crd" "$venv/crd"
    (cd "$venv/crd" && npm ci --silent --no-audit --no-fund)
fi
printf '%s\n' "$wanted" >"$stamp"
