#!/usr/bin/env bash
# From an empty checkout to a told story on two CPU cores: data, both stages of training, a story, and its measures.
# Run it again and it picks up where it was. Arguments go to `phenaki quickstart`, for example --workdir=DIR.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
prepare_environment train
cd "$root"
exec "$venv/bin/python" -m phenaki_jax quickstart "$@"
