#!/usr/bin/env bash
# Known holes in the dependencies of infra/constraints.txt, asked of the public databases (pypi.org; `-s osv` for osv.dev).
# pip-audit gets a place of its own, since the audited tree must not change. Without a database it fails: --strict, as it
# would otherwise call packages clean that nobody could tell it about.
set -euo pipefail
cd "$(dirname "$0")/.."
place=$(mktemp -d) && trap 'rm -rf "$place"' EXIT
"${PYTHON:-python3}" -m venv "$place"
"$place/bin/pip" install --quiet --disable-pip-version-check pip-audit
"$place/bin/pip-audit" --strict --no-deps --disable-pip --requirement infra/constraints.txt "$@"
