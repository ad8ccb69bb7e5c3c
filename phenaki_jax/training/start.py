"""What a run stands on, and what it begins with: another run's weights, wherever names and shapes agree."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np

from phenaki_jax import config as configs
from phenaki_jax.config import read_run_config
from phenaki_jax.digest import tree_digest
from phenaki_jax.errors import UserError
from phenaki_jax.models.build import tokenizer_config as sizes_of
from phenaki_jax.models.tree import ARRAYS
from phenaki_jax.training.caches import FREE_TOKENIZER_FIELDS
from phenaki_jax.training.checkpoints import Run, load_run
from phenaki_jax.training.state import TrainState, path_name

Tree = Any

# Of a generator's run, what a critic over it may have otherwise: how it is computed, and where its encoder lies.
FREE_GENERATOR_FIELDS = ("dtype", "remat", "attention_block", "unroll", "dropout", "path", "cache")


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


def frozen_arrays(config, workdir: Path, steps_saved: list[int]) -> dict:
    """What a run stands on, from its own checkpoint, else from the run that it names: for a generator its tokenizer,
    {"params": ..., "variables": ...}; for a critic its generator and that one's tokenizer, by name."""
    if config.stage == "tokenizer":
        return {}
    if steps_saved:
        return load_run(workdir).frozen
    if config.stage == "generator":
        run = _trained(config, "tokenizer_run", "tokenizer")
        return {"params": run.params, "variables": run.variables}
    run = _trained(config, "generator_run", "generator")
    for group in ("generator", "text"):  # what sizes its arrays and gives them their meaning
        difference = configs.differing_field(run.config[group], config[group], FREE_GENERATOR_FIELDS)
        if difference:
            name, theirs, ours = difference
            raise UserError(f"{group}.{name} is {ours!r} in this config, but {theirs!r} in the generator's run "
                            f"{config.generator_run!r}; they have to be the same.")
    return {"generator": {"params": run.params, "variables": run.variables}, "tokenizer": run.frozen}


def _trained(config, field: str, stage: str) -> Run:
    """The run that a field of the config names, of that stage and of the config's vocabulary."""
    folder = config.get(field)
    if not folder:
        raise UserError(f"Config field {field!r} is empty; a {config.stage} needs the folder of a trained {stage}, "
                        f"--config.{field}=DIR.")
    found = read_run_config(folder).stage
    if found != stage:
        raise UserError(f"{field}={folder!r} is a run of stage {found!r}, not of a {stage}.")
    run = load_run(folder)
    check_vocabulary(config, run.config, folder)
    return run


def check_vocabulary(config, tokenizer_config, where: str) -> None:
    """Raises: UserError where the generator's config speaks of other tokens than the tokenizer's run made."""
    both = [configs.from_dict({"tokenizer": dataclasses.asdict(sizes_of(c))}) for c in (tokenizer_config, config)]
    difference = configs.differing_field(*both, free=FREE_TOKENIZER_FIELDS)
    if difference:
        name, theirs, ours = difference
        raise UserError(
            f"Vocabulary mismatch: {name} is {ours!r} in this config, but {theirs!r} in the run {where!r}; "
            "they have to be the same."
        )
