#!/usr/bin/env bash
# Trains on a TPU VM of one host (v4-8, v5litepod-8, v6e-8 and smaller), from a machine with gcloud:
#
#   PROJECT=my-project ZONE=us-east5-b bash launch/tpu_vm.sh NAME --config=configs/sprites.py:tokenizer \
#       --workdir=runs/sprites/tokenizer
#
# It copies the committed state of this checkout to the VM NAME, installs it there and runs `phenaki train` with the
# remaining arguments. Run again, it resumes. The VM is made beforehand and stays:
#   gcloud compute tpus tpu-vm create NAME --zone=$ZONE --accelerator-type=v5litepod-8 --version=v2-alpha-tpuv5-lite
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
[[ $# -ge 2 ]] || { echo "usage: PROJECT=… ZONE=… bash launch/tpu_vm.sh NAME --config=… --workdir=…" >&2; exit 2; }
: "${ZONE:?set ZONE to the zone of the TPU VM}"
command -v gcloud >/dev/null || { echo "phenaki: gcloud was not found; install the Google Cloud CLI." >&2; exit 2; }
name="$1"
shift
where=(--zone="$ZONE" ${PROJECT:+--project="$PROJECT"})
archive="$(mktemp -d)/phenaki_jax.tar.gz"
trap 'rm -rf "$(dirname "$archive")"' EXIT
git -C "$root" archive --format=tar.gz --prefix=phenaki_jax/ --output="$archive" HEAD
gcloud compute tpus tpu-vm scp "$archive" "$name:phenaki_jax.tar.gz" "${where[@]}"
gcloud compute tpus tpu-vm ssh "$name" "${where[@]}" --command="
  set -euo pipefail
  tar -xzf phenaki_jax.tar.gz
  bash phenaki_jax/launch/env.sh train tpu
  cd phenaki_jax && exec .venv/bin/python -m phenaki_jax train $(printf '%q ' "$@")"
