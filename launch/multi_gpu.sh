#!/usr/bin/env bash
# Trains on all GPUs of this one host, with one process that drives them:
#
#   bash launch/multi_gpu.sh --config=configs/sprites.py:tokenizer --workdir=runs/sprites/tokenizer
#
# Arguments go to `phenaki train`. CUDA_VISIBLE_DEVICES narrows the GPUs; --config.mesh.fsdp=4 and its like say how
# they share the work (by default each holds the whole model and its part of the batch). PROCESSES=8 gives the GPUs to
# eight processes instead, in equal shares: more of the host's cores then work on the data.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
source "$root/launch/processes.sh"
fail() { echo "phenaki: $*" >&2; exit 2; }
command -v nvidia-smi >/dev/null || fail "nvidia-smi was not found; this script needs NVIDIA GPUs."
count="${PROCESSES:-1}"
[[ "$count" =~ ^[1-9][0-9]*$ ]] || fail "PROCESSES=$count has to be a number of processes, such as 8."
IFS=, read -ra gpus <<< "${CUDA_VISIBLE_DEVICES-$(nvidia-smi --query-gpu=index --format=csv,noheader | paste -sd,)}"
((${#gpus[@]} > 0)) || fail "there is no GPU that could be used; nvidia-smi or CUDA_VISIBLE_DEVICES names none."
((${#gpus[@]} % count == 0)) || fail "PROCESSES=$count has to divide the number of GPUs, ${#gpus[@]}."
prepare_environment train cuda
cd "$root"
if ((count == 1)); then
  exec "$venv/bin/python" -m phenaki_jax train "$@"
fi
run_processes "$venv/bin/python" "$count" "$venv/bin/python" -m phenaki_jax train "$@"
