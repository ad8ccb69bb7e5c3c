#!/usr/bin/env bash
# Trains the quickstart's tokenizer with each quantizer at 512 codes and says how many of them each uses; goes on where
# it was when it is run again. Five to ten minutes a quantizer on two cores.
#
#   bash launch/codebooks.sh [FOLDER] [--config.FIELD=VALUE …]      # default: runs/codebooks
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
prepare_environment train
cd "$root"
folder=runs/codebooks
if [[ $# -gt 0 && "$1" != --* ]]; then
  folder="$1"
  shift
fi
for quantizer in vq fsq lfq bsq; do
  fields=(--config.tokenizer.quantizer="$quantizer" --config.tokenizer.codebook_size=512)
  if [[ "$quantizer" == fsq ]]; then
    fields+=("--config.tokenizer.levels=8,8,8")
  fi
  "$venv/bin/python" -m phenaki_jax train --config=configs/quickstart.py:tokenizer --workdir="$folder/$quantizer" \
    --config.data.data_dir="$folder/data" "${fields[@]}" "$@"
  "$venv/bin/python" -m phenaki_jax evaluate --model="$folder/$quantizer" --suite=tokenizer \
    --report="$folder/$quantizer.json"
done
