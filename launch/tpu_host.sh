#!/usr/bin/env bash
# One host of a TPU VM: launch/tpu_vm.sh copies it there and runs it, with the arguments of `phenaki train` and
# HOSTS, SHARE and EXTRAS in the environment.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
fail() { echo "phenaki: $*" >&2; exit 2; }
hosts="${HOSTS:-1}"
cd "$root"

# ---------------------------------------------------------------- a run of before holds the TPU; told to end, it saves
running="$HOME/.phenaki_run.pid"
if pid="$(cat "$running" 2>/dev/null)" && grep -qa phenaki_jax "/proc/$pid/cmdline" 2>/dev/null; then
  echo "phenaki: a run is still on $(hostname); it is told to save and end"
  kill -TERM "$pid"
  for ((second = 0; second < 300; second++)); do
    kill -0 "$pid" 2>/dev/null || break
    sleep 1
  done
  kill -KILL "$pid" 2>/dev/null || true
fi

# ---------------------------------------------------------------- a folder for the run that all hosts see
if [[ -n "${SHARE:-}" ]] && ! mountpoint -q /mnt/phenaki; then
  command -v mount.nfs >/dev/null || sudo apt-get -o DPkg::Lock::Timeout=600 install -qq -y nfs-common
  sudo mkdir -p /mnt/phenaki
  sudo mount -t nfs "$SHARE" /mnt/phenaki
  [[ -w /mnt/phenaki ]] || sudo chmod a+rwx /mnt/phenaki
fi
if ((hosts > 1)); then
  workdir=""
  for argument in "$@"; do
    case "$argument" in --workdir=*) workdir="${argument#*=}" ;; esac
  done
  [[ -n "$workdir" ]] || fail "--workdir=DIR is missing."
  mkdir -p "$workdir"
  case "$(findmnt -n -o FSTYPE -T "$workdir")" in
    nfs* | fuse* | lustre | ceph) ;;
    *) fail "--workdir=$workdir is on a disk of this host alone, and $hosts hosts share a run; it has to be on a" \
            "file system that all of them mount, such as SHARE of launch/tpu_vm.sh or a bucket by gcsfuse." ;;
  esac
  export PHENAKI_PROCESSES=auto
fi

# ---------------------------------------------------------------- what is needed, and the run
if [[ ! -x "$venv/bin/python" ]] && ! find_python >/dev/null 2>&1; then  # TPU VMs come with Python 3.10
  python3 -m pip install --quiet --user uv
  python3 -m uv python install --quiet 3.11
  PHENAKI_PYTHON="$(python3 -m uv python find --managed-python --no-project 3.11)"
  export PHENAKI_PYTHON
fi
read -ra extras <<< "${EXTRAS:-}"
prepare_environment train tpu ${extras[@]+"${extras[@]}"}
echo "$$" > "$running"
exec "$venv/bin/python" -m phenaki_jax train "$@"
