#!/usr/bin/env bash
# Sourced by launch/local_multiprocess.sh and launch/multi_gpu.sh: several processes of one run on this machine.

# run_processes PYTHON COUNT COMMAND…: runs COMMAND so often, each process with JAX_COORDINATOR_ADDRESS,
# JAX_NUM_PROCESSES and JAX_PROCESS_ID, and where the array `gpus` is set with its share of it alone in
# CUDA_VISIBLE_DEVICES. The first one's output is shown, all of it goes to $LOGS/PROCESS.log. Exits with the first
# failure's exit code; SIGTERM and SIGINT go to all of them.
run_processes() {
  local python="$1" count="$2" port logs index share code=0 status pid setting
  shift 2
  logs="${LOGS:-$(mktemp -d)}"
  mkdir -p "$logs"
  port="$("$python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')"
  export JAX_COORDINATOR_ADDRESS="127.0.0.1:$port" JAX_NUM_PROCESSES="$count"
  pids=()
  trap 'stop_processes TERM' TERM
  trap 'stop_processes INT' INT
  for ((index = 0; index < count; index++)); do
    setting=(JAX_PROCESS_ID="$index")
    if [[ -n "${gpus[*]-}" ]]; then
      share=$((${#gpus[@]} / count))
      setting+=(CUDA_VISIBLE_DEVICES="$(IFS=,; echo "${gpus[*]:index * share:share}")")
    fi
    env "${setting[@]}" "$@" >"$logs/$index.log" 2>&1 &
    pids+=("$!")
  done
  tail -n +1 -f --pid="${pids[0]}" "$logs/0.log" &
  for pid in "${pids[@]}"; do
    await_process "$pid"
    if ((status != 0 && code == 0)); then
      code=$status
      stop_processes TERM
    fi
  done
  wait 2>/dev/null || true
  ((code == 0)) || echo "phenaki: a process ended with exit code $code; see $logs" >&2
  exit "$code"
}

stop_processes() { kill -"$1" "${pids[@]}" 2>/dev/null || true; }

# await_process PID: waits for it, also where a signal has ended the waiting and not the process; sets `status`.
await_process() {
  status=0
  wait "$1" || status=$?
  while kill -0 "$1" 2>/dev/null; do
    status=0
    wait "$1" || status=$?
  done
}
