#!/usr/bin/env bash
# One task of a cluster's job: runs `phenaki` with the arguments and $PYTHON (default: that of .venv).
#
# A run that is told to stop saves and ends with exit code 0, and a cluster would take the job for done. Here a task
# that was sent SIGTERM ends with 143, so that whoever manages the job (launch/slurm.sbatch, launch/gke_jobset.yaml)
# starts it again; it then goes on, or ends at once with 0 where all steps were done.
set -uo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
source "$root/launch/processes.sh"
python="${PYTHON:-$root/.venv/bin/python}"
stopped=""
pids=()
trap 'stopped=yes; stop_processes TERM' TERM
cd "$root" || exit
"$python" -m phenaki_jax "$@" &
pids=("$!")
[[ -z "$stopped" ]] || stop_processes TERM
await_process "${pids[0]}"
if ((status == 0)) && [[ -n "$stopped" ]]; then
  status=143
fi
exit "$status"
