#!/usr/bin/env bash
# Runs the tests, those marked slow left out. Arguments go to pytest: `-m slow`, `tests/test_media.py`, `-x`, `-n 0`.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
prepare_environment train ingest metrics text safety c2pa test
cd "$root"
exec "$venv/bin/python" -m pytest -q -rs -n 2 "$@"
