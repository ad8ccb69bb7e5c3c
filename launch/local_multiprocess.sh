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
[[ $# -ge 2 && "$1" =~ ^[1-9][0-9]*$ ]] || { echo "usage: bash launch/local_multiprocess.sh N train --config=… --workdir=…" >&2; exit 2; }
count="$1"
shift
python="${PYTHON:-}"
if [[ -z "$python" ]]; then
  # shellcheck source=launch/env.sh
  source "$root/launch/env.sh"
  prepare_environment train
  python="$venv/bin/python"
fi
cd "$root"
logs="${LOGS:-$(mktemp -d)}"
mkdir -p "$logs"
port="$("$python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')"
export JAX_PLATFORMS=cpu JAX_COORDINATOR_ADDRESS="127.0.0.1:$port" JAX_NUM_PROCESSES="$count"
export XLA_FLAGS="${XLA_FLAGS:-} --xla_force_host_platform_device_count=${DEVICES_PER_PROCESS:-1}"
if [[ -n "${PROGRAM:-}" ]]; then command=("$python" "$PROGRAM" "$@"); else command=("$python" -m phenaki_jax "$@"); fi
pids=()
stop() { kill -"${1:-TERM}" "${pids[@]}" 2>/dev/null || true; }
trap 'stop TERM' TERM
trap 'stop INT' INT
for ((index = 0; index < count; index++)); do
  JAX_PROCESS_ID="$index" "${command[@]}" >"$logs/$index.log" 2>&1 &
  pids+=("$!")
done
tail -n +1 -f --pid="${pids[0]}" "$logs/0.log" &
code=0
for pid in "${pids[@]}"; do
  status=0
  wait "$pid" || status=$?
  while kill -0 "$pid" 2>/dev/null; do  # a signal has ended the waiting, not the process
    status=0
    wait "$pid" || status=$?
  done
  if ((status != 0 && code == 0)); then
    code=$status
    stop TERM
  fi
done
wait 2>/dev/null || true
((code == 0)) || echo "phenaki: a process ended with exit code $code; see $logs" >&2
exit "$code"
