"""The token critic's stage: which tokens of a filled grid are the generator's own (arXiv 2209.04439).

It is trained over a trained generator, which it leaves as it is.
"""

import jax
import jax.numpy as jnp
import optax

from phenaki_jax.models.build import make_critic, make_generator, make_tokenizer
from phenaki_jax.sampling.critique import fill, roc_auc
from phenaki_jax.sampling.decoding import Sampler
from phenaki_jax.sampling.schedules import masked_share
from phenaki_jax.training.by_source import by_source
from phenaki_jax.training.rows import Reader
from phenaki_jax.training.stage import Stage


def row_losses(logits_BTHW: jax.Array, fake_BTHW: jax.Array, free_BTHW: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Binary cross-entropy of which tokens are the model's: of each row its sum over those that could be, and how many
    these are, both float32 [B]."""
    losses = optax.sigmoid_binary_cross_entropy(logits_BTHW, fake_BTHW.astype(jnp.float32))
    return jnp.sum(losses * free_BTHW, axis=(1, 2, 3)), jnp.sum(free_BTHW, axis=(1, 2, 3), dtype=jnp.float32)


def make_stage(config, frozen=None) -> Stage:
    """The critic's stage over a trained generator.

    A token counts as the model's where it was drawn and differs from the data's: a draw that is the data's token cannot
    be told from it. Metrics: auc, of telling these from all others; auc_drawn, of telling all that was drawn from what
    was not, which a generator that is often right holds down; drawn_right, the share of draws that are the data's.

    Args:
      frozen: {"generator": {"params", "variables"}, "tokenizer": the same} of the generator's run.
    """
    masked_share(0.5, config.train.mask_schedule)  # an unknown name is said before anything is built
    pure, generator, tokenizer = make_critic(config), make_generator(config), make_tokenizer(config)
    reader = Reader(config, noisy=False)

    def loss(params, variables, frozen, batch, key, step):
        critic, model = pure.bind(params, variables), generator.bind(**frozen["generator"])
        codec = tokenizer.bind(**frozen["tokenizer"])
        total, metrics = 0.0, {}
        for name, share, rows, loss_key in reader.streams(batch, codec, frozen, key):
            fill_key, dropout_key = jax.random.split(loss_key)
            text = model.embed(rows.text)
            filled, drawn, free = jax.lax.stop_gradient(fill(
                model, rows.tokens, model.transformer.read(text, rows.text_mask, rows.told), rows.given,
                config.train.mask_schedule, fill_key))
            logits = critic(filled, critic.read(text, rows.text_mask, rows.told), key=dropout_key)
            fake = filled != rows.tokens
            sums, counts = row_losses(logits, fake, free)
            value = sums.sum() / jnp.maximum(counts.sum(), 1)
            total += share * value
            right = jnp.sum(drawn & ~fake) / jnp.maximum(jnp.sum(drawn), 1)
            metrics |= {f"{name}/auc": roc_auc(logits, fake, free), f"{name}/auc_drawn": roc_auc(logits, drawn, free),
                        f"{name}/cross_entropy": value, f"{name}/drawn_right": right}
            metrics |= by_source(f"{name}/cross_entropy", batch[name].get("sources"), sums, counts)
        return total, (pure.variables(critic), metrics)

    sampler = Sampler(generator, tokenizer, pure)

    def samples(params, variables, frozen, batch, key):
        models = {name: frozen[name] for name in ("generator", "tokenizer")}
        return reader.samples(sampler, models | {"critic": {"params": params, "variables": variables}}, frozen, batch,
                              key)

    return Stage("critic", pure.init, pure.axes, pure.variable_axes, loss, frozen or {}, samples, **reader.given)
