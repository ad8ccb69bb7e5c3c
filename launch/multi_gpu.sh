#!/usr/bin/env bash
# Trains on all GPUs of this one host, with one process that drives them:
#
#   bash launch/multi_gpu.sh --config=configs/sprites.py:tokenizer --workdir=runs/sprites/tokenizer
#
# Arguments go to `phenaki train`. CUDA_VISIBLE_DEVICES narrows the GPUs; --config.mesh.fsdp=4 and its like say how
# they share the work (by default each holds the whole model and its part of the batch).
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
command -v nvidia-smi >/dev/null || { echo "phenaki: nvidia-smi was not found; this script needs NVIDIA GPUs." >&2; exit 2; }
prepare_environment train cuda
cd "$root"
exec "$venv/bin/python" -m phenaki_jax train "$@"
