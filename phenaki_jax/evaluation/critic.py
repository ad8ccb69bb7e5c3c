"""How well a critic tells a generator's tokens from the data's, on clips that neither has seen."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from phenaki_jax.errors import UserError
from phenaki_jax.sampling.critique import fill, roc_auc


def check_critic(pipe: Any) -> None:
    """Raises: UserError where the pipeline has no critic."""
    if pipe.critic is None:
        raise UserError("--suite=critic needs the folder of a critic's run, phenaki train --config=…:critic")


def critic_protocol(pipe: Any, clips: np.ndarray, prompts: Sequence[str], seed: int, *, batch_size: int = 32) -> dict:
    """Fills a share of each clip's tokens, uniform from 0 to 1, with the generator's draws and asks the critic.

    Args:
      pipe: a `PhenakiPipeline` of a critic's run. clips: uint8 [N, F, Y, X, 3]; prompts: their captions.

    Returns:
      "auc": area under the ROC curve of telling tokens that were drawn and differ from the data's; "auc_drawn": of
      telling all that were drawn; "drawn_right": share of the draws that are the data's token; "clips".
    """
    check_critic(pipe)
    generator, critic = pipe.generator, pipe.critic

    @jax.jit
    def ask(generator_arrays, critic_arrays, tokens, text, mask, key):
        model, judge = generator.pure.bind(*generator_arrays), critic.pure.bind(*critic_arrays)
        text = model.embed(text)
        filled, drawn, _ = fill(model, tokens, model.transformer.read(text, mask), jnp.zeros(tokens.shape[:2], bool),
                                "uniform", key)
        return filled, drawn, judge(filled, judge.read(text, mask))

    found = []
    arrays = [(model.params, model.variables) for model in (generator, critic)]
    for start in range(0, len(clips), batch_size):
        part = slice(start, start + batch_size)
        tokens = pipe.tokenizer.encode(clips[part])
        text, mask = pipe.read(list(prompts[part]))
        found.append((tokens, *ask(*arrays, tokens, text, mask, jax.random.fold_in(jax.random.key(seed), start))))
    tokens, filled, drawn, logits = (jnp.concatenate(x) for x in zip(*found))
    fake, everywhere = filled != tokens, jnp.ones(tokens.shape, bool)
    return {"clips": len(clips), "auc": float(roc_auc(logits, fake, everywhere)),
            "auc_drawn": float(roc_auc(logits, drawn, everywhere)),
            "drawn_right": float(jnp.sum(drawn & ~fake) / jnp.sum(drawn))}
