#!/usr/bin/env bash
# Trains on a Cloud TPU VM of one host or many, from a machine with gcloud:
#
#   PROJECT=my-project ZONE=us-east5-b ACCELERATOR=v6e-8 bash launch/tpu_vm.sh NAME \
#       --config=configs/sprites.py:tokenizer --workdir=runs/sprites/tokenizer
#
# Where there is no TPU VM of that NAME, a queued resource of the same name is asked for and awaited. The committed
# state of this checkout goes to all its hosts (launch/tpu_host.sh), is installed there, and `phenaki train` runs with
# the remaining arguments. Run again, it resumes: a run that is still there is told to save and end, and a spot TPU that
# was taken away is asked for anew. The TPU stays, and costs, until it is deleted:
#   gcloud compute tpus queued-resources delete NAME --zone=$ZONE --force
#
#   ACCELERATOR=v5litepod-256   what to ask for
#   SPOT=1                      cheaper, and taken away at any time
#   RUNTIME=…                   another software version than the one for the accelerator
#   CREATE_FLAGS="--reserved"   more flags for `queued-resources create`
#   SHARE=10.0.0.2:/runs        an NFS share (Filestore), mounted on every host at /mnt/phenaki. Several hosts need a
#                               run's folder that all of them see: --workdir=/mnt/phenaki/tokenizer
#   EXTRAS="metrics text"       more extras of setup.py to install
#   WAIT=30                     seconds between two looks at the queue
# For several hosts gcloud wants its key in the agent: ssh-add ~/.ssh/google_compute_engine
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
fail() { echo "phenaki: $*" >&2; exit 2; }
[[ $# -ge 2 && "$1" != -* ]] ||
  { echo "usage: PROJECT=… ZONE=… [ACCELERATOR=…] bash launch/tpu_vm.sh NAME --config=… --workdir=…" >&2; exit 2; }
[[ -n "${ZONE:-}" ]] || fail "ZONE is not set; it has to be the zone of the TPU VM, such as us-east5-b."
command -v gcloud >/dev/null || fail "gcloud was not found; install the Google Cloud CLI."
name="$1"
shift
where=(--zone="$ZONE" ${PROJECT:+--project="$PROJECT"})
scratch="$(mktemp -d)"
trap 'rm -rf "$scratch"' EXIT

# describe KIND FIELD: what gcloud says of KIND $name, nothing where there is none.
describe() {
  if ! gcloud compute tpus "$1" describe "$name" "${where[@]}" --format="value($2)" 2>"$scratch/error"; then
    grep -q NOT_FOUND "$scratch/error" || { cat "$scratch/error" >&2; return 1; }
  fi
}

runtime_of() {
  case "$1" in
    v2-* | v3-* | v4-*) echo tpu-ubuntu2204-base ;;
    v5litepod-*) echo v2-alpha-tpuv5-lite ;;
    v5p-*) echo v2-alpha-tpuv5 ;;
    v6e-*) echo v2-alpha-tpuv6e ;;
    *) fail "ACCELERATOR=$1 is none whose software version is known here; set RUNTIME to it." ;;
  esac
}

ask_for_tpu() {
  local state runtime flags
  [[ -n "${ACCELERATOR:-}" ]] ||
    fail "there is no TPU VM $name in $ZONE; set ACCELERATOR, for example to v6e-8, and one is asked for."
  runtime="${RUNTIME:-$(runtime_of "$ACCELERATOR")}"
  state="$(describe queued-resources state.state)"
  while [[ "$state" == SUSPENDING || "$state" == DELETING ]]; do
    sleep "${WAIT:-30}"
    state="$(describe queued-resources state.state)"
  done
  if [[ "$state" == SUSPENDED || "$state" == FAILED ]]; then  # its TPU is gone, and its name is taken
    gcloud compute tpus queued-resources delete "$name" "${where[@]}" --force --quiet
    state=""
  fi
  if [[ -z "$state" ]]; then
    read -ra flags <<< "${CREATE_FLAGS:-}"
    gcloud compute tpus queued-resources create "$name" "${where[@]}" --node-id="$name" \
      --accelerator-type="$ACCELERATOR" --runtime-version="$runtime" ${SPOT:+--spot} ${flags[@]+"${flags[@]}"}
  fi
  while state="$(describe queued-resources state.state)" && [[ "$state" != ACTIVE ]]; do
    case "$state" in
      FAILED | SUSPEND*)
        echo "phenaki: the request for $ACCELERATOR ended as $state; see why with" \
             "gcloud compute tpus queued-resources describe $name ${where[*]}" >&2
        exit 1 ;;
    esac
    echo "phenaki: $name is ${state:-not there yet}"
    sleep "${WAIT:-30}"
  done
}

state="$(describe tpu-vm state)"
case "$state" in
  READY) ;;
  "" | PREEMPTED | TERMINATED) ask_for_tpu ;;
  *) fail "the TPU VM $name is $state; run this again when it is READY." ;;
esac
hosts="$(describe tpu-vm 'networkEndpoints.len()')"

git -C "$root" archive --format=tar.gz --prefix=phenaki_jax/ --output="$scratch/phenaki_jax.tar.gz" HEAD
tries=1
until gcloud compute tpus tpu-vm scp "$scratch/phenaki_jax.tar.gz" "$name:" "${where[@]}" --worker=all; do
  ((tries++ < 10)) || exit 1  # a new VM takes a while until it lets anyone in
  sleep "${WAIT:-30}"
done
settings="$(printf '%q ' HOSTS="$hosts" SHARE="${SHARE:-}" EXTRAS="${EXTRAS:-}")"
gcloud compute tpus tpu-vm ssh "$name" "${where[@]}" --worker=all --command="tar -xzf phenaki_jax.tar.gz &&
  exec env $settings bash phenaki_jax/launch/tpu_host.sh $(printf '%q ' "$@")"
