"""Several processes of one run: found in the environment, and joined before JAX looks for devices."""

import os

import jax

from phenaki_jax.errors import UserError

VARIABLES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")


def join_processes() -> None:
    """Joins the other processes of this run, where the environment speaks of any; else this one is alone.

    - JAX_COORDINATOR_ADDRESS (host:port of the first), JAX_NUM_PROCESSES and JAX_PROCESS_ID: on any hosts
      (launch/local_multiprocess.sh).
    - srun with several tasks, mpirun with several ranks, GKE with several TPU hosts: told by what they set themselves.
    - PHENAKI_PROCESSES=auto: whatever `jax.distributed.initialize` finds, for TPU VMs, whose metadata has to be asked.

    Raises: UserError where the variables are incomplete, or the others do not come.
    """
    env = os.environ
    try:
        if env.get(VARIABLES[0]):
            count, index = (_number(name) for name in VARIABLES[1:])
            if not 0 <= index < count:
                raise UserError(f"JAX_PROCESS_ID={index} has to be from 0 to below JAX_NUM_PROCESSES={count}")
            if count > 1:
                jax.distributed.initialize(env[VARIABLES[0]], count, index)
        elif env.get("PHENAKI_PROCESSES") == "auto" or _cluster(env):
            jax.distributed.initialize()
    except (RuntimeError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"the other processes of this run were not found ({reason})") from None


def _number(name: str) -> int:
    text = os.environ.get(name, "")
    if not text.isdecimal():
        raise UserError(f"{name}={text!r} has to be a number, where {VARIABLES[0]} is set")
    return int(text)


def _cluster(env: os._Environ) -> bool:
    """Whether SLURM, MPI or GKE has started several of this process."""
    return ("SLURM_STEP_NODELIST" in env and int(env.get("SLURM_STEP_NUM_TASKS", env.get("SLURM_NTASKS", 1))) > 1
            or int(env.get("OMPI_COMM_WORLD_SIZE", 1)) > 1 or "," in env.get("TPU_WORKER_HOSTNAMES", ""))
