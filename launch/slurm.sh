#!/usr/bin/env bash
#SBATCH --job-name=phenaki
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=32
#SBATCH --time=24:00:00
#SBATCH --output=runs/slurm-%j.log
#SBATCH --requeue
# Trains on the GPUs of one SLURM node. From the checkout, where `bash launch/env.sh train cuda` has run once:
#
#   mkdir -p runs && sbatch launch/slurm.sh --config=configs/sprites.py:tokenizer --workdir=runs/sprites/tokenizer
#
# Options of sbatch before the script's name win over those above. A job that is pre-empted is queued again and
# resumes from its last checkpoint. SLURM copies this script elsewhere, so the checkout is the folder it was sent from.
set -euo pipefail
exec bash "${SLURM_SUBMIT_DIR:?send this script with sbatch, from the checkout}/launch/multi_gpu.sh" "$@"
