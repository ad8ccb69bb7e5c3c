#!/usr/bin/env bash
# Runs a command as N processes of one run on this machine, with CPU collectives; the first one's output is shown, all
# of it goes to LOGS/PROCESS.log ($LOGS, default: a new folder under $TMPDIR). Ends with the first failure's exit code.
#
#   bash launch/local_multiprocess.sh 2 train --config=configs/quickstart.py:tokenizer --workdir=runs/two
#
# What comes after N is `phenaki`'s own command line; with PROGRAM=FILE.py instead that program's.
# DEVICES_PER_PROCESS=4 gives each process four fake devices (default: 1).
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
[[ $# -ge 2 && "$1" =~ ^[1-9][0-9]*$ ]] ||
  { echo "usage: bash launch/local_multiprocess.sh N train --config=… --workdir=…" >&2; exit 2; }
source "$root/launch/processes.sh"
count="$1"
shift
python="${PYTHON:-}"
if [[ -z "$python" ]]; then
  source "$root/launch/env.sh"
  prepare_environment train
  python="$venv/bin/python"
fi
cd "$root"
export JAX_PLATFORMS=cpu
export XLA_FLAGS="${XLA_FLAGS:-} --xla_force_host_platform_device_count=${DEVICES_PER_PROCESS:-1}"
if [[ -n "${PROGRAM:-}" ]]; then command=("$python" "$PROGRAM" "$@"); else command=("$python" -m phenaki_jax "$@"); fi
run_processes "$python" "$count" "${command[@]}"
