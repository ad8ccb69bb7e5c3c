"""What a run begins with: another run's weights, wherever names and shapes agree."""

import dataclasses
from typing import Any

import jax
import numpy as np

from phenaki_jax.config import read_run_config
from phenaki_jax.digest import tree_digest
from phenaki_jax.errors import UserError
from phenaki_jax.models.tree import ARRAYS
from phenaki_jax.training.checkpoints import load_run
from phenaki_jax.training.state import TrainState, path_name

Tree = Any


def starting_arrays(config, frozen: Tree) -> tuple[str, Tree] | None:
    """The folder that `train.init_from` names and its averaged weights, {"params", "variables"}; None for none.

    A critic begins with its generator's transformer where no other run is named.

    Args:
      frozen: what the run stands on; a generator or a critic begins only with weights over the same tokenizer.

    Raises: UserError where the named run is of another stage, or over another tokenizer.
    """
    folder = config.train.get("init_from")
    if config.stage == "critic" and not folder:
        return config.generator_run, {"params": frozen["generator"]["params"]["transformer"], "variables": {}}
    if not folder:
        return None
    stage = read_run_config(folder).stage
    if stage != config.stage:
        raise UserError(f"train.init_from={folder!r} is a run of stage {stage!r}; a {config.stage} begins with a "
                        f"{config.stage}'s weights")
    run = load_run(folder)
    theirs, ours = (tree.get("tokenizer", tree) for tree in (run.frozen, frozen))
    if tree_digest(theirs) != tree_digest(ours):
        raise UserError(f"train.init_from={folder!r} is a run over another tokenizer, whose tokens mean something "
                        f"else; give a {config.stage} over the same one")
    return folder, dict(zip(ARRAYS, (run.params, run.variables)))


def begin_with(state: TrainState, arrays: Tree, where: str) -> tuple[TrainState, list[str]]:
    """The state with these arrays in place of its own, and the names of the params that are its own still.

    Each array goes where the one lies whose place it takes.

    Args:
      state: before the first step. arrays: {"params", "variables"}. where: what errors call them.

    Raises: UserError where not one of them fits.
    """
    flat = {path_name(path): leaf for path, leaf in jax.tree_util.tree_flatten_with_path(arrays)[0]}
    own: list[str] = []

    def put(group: str, note: bool = False):
        def one(path, leaf):
            name = path_name(path)
            found = flat.get(f"{group}/{name}")
            if found is None or found.shape != leaf.shape:
                own.extend([name] * note)
                return leaf
            return jax.device_put(np.asarray(found, leaf.dtype), leaf.sharding, may_alias=False)

        return lambda tree: jax.tree_util.tree_map_with_path(one, tree)

    params = put("params", note=True)(state.params)
    if len(own) == len(jax.tree.leaves(state.params)):
        raise UserError(f"train.init_from={where!r} has no array of a name and shape of this config's model; "
                        "give a run that is more like it, or none")
    state = dataclasses.replace(state, params=params, ema=put("params")(state.ema),
                                variables=put("variables")(state.variables))
    return state, own
