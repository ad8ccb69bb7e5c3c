"""Stage two: the masked transformer, on clips and images at once (Phenaki, section 2.2 and appendix B.2)."""

from typing import Any

import jax
import jax.numpy as jnp

from phenaki_jax.errors import UserError
from phenaki_jax.models.build import make_generator, make_tokenizer
from phenaki_jax.models.codes import split_tokens
from phenaki_jax.models.maskgit import Generator, split_logits
from phenaki_jax.models.tree import ARRAYS
from phenaki_jax.sampling.decoding import Sampler
from phenaki_jax.sampling.schedules import masked_share, random_mask
from phenaki_jax.training.by_source import by_source
from phenaki_jax.training.rows import Reader
from phenaki_jax.training.stage import Stage


def masked_loss(model: Generator, tokens_BTHW: jax.Array, text: jax.Array, text_mask_BP: jax.Array,
                given_BT: jax.Array, key: jax.Array, schedule: str = "uniform", label_smoothing: float = 0.0,
                z_loss: float = 0.0, conditions_BN: jax.Array | None = None,
                noise_B: jax.Array | None = None,
                sources_BN: jax.Array | None = None) -> tuple[jax.Array, dict[str, Any]]:
    """The loss and, as metrics, cross-entropy and accuracy of the masked positions alone, means over all of them.

    Args:
      tokens_BTHW: true tokens; an image has T = 1, so its masks and its loss touch the first H x W tokens only.
      given_BT: boolean, latent steps that are given and never masked (a story's last frames).
      schedule: of the masked share; see `masked_share`.
      label_smoothing: share of the target that is spread evenly over all codes.
      z_loss: weight of (log of the softmax's sum)^2, which keeps logits from drifting (PaLM, arXiv 2204.02311,
        section 5).
      conditions_BN: numbers beside the text, NaN where not told; see `TokenTransformer.read`.
      noise_B: share of each row's given tokens that the model sees as random ones.
      sources_BN: the rows' data sets, for metrics of each (`by_source`).
    """
    mask_key, dropout_key, noise_key = jax.random.split(key, 3)
    B, T, H, W = tokens_BTHW.shape
    free_BS = jnp.repeat(~given_BT, H * W, axis=1)
    mask_BTHW = random_mask(mask_key, free_BS, schedule).reshape(B, T, H, W)
    inputs = jnp.where(mask_BTHW, model.transformer.mask_id, tokens_BTHW)
    if noise_B is not None:
        given_BS = ~free_BS & (jax.random.uniform(noise_key, free_BS.shape) < noise_B[:, None])
        other = jax.random.randint(jax.random.fold_in(noise_key, 1), inputs.shape, 0, model.transformer.mask_id)
        inputs = jnp.where(given_BS.reshape(inputs.shape), other, inputs)
    read = model.read(text, text_mask_BP, conditions_BN)
    logits = model.transformer(inputs, read, key=dropout_key)
    digits = model.transformer.config.digits
    entropy, objective, hits = 0.0, 0.0, True
    for logits_V, target in zip(split_logits(logits, digits), jnp.moveaxis(split_tokens(tokens_BTHW, digits), -1, 0)):
        # The true token's logit by comparison: a gather's gradient is a scatter and an argmax a slow reduction.
        is_true = jnp.arange(logits_V.shape[-1]) == target[..., None]
        true_logit = jnp.sum(jnp.where(is_true, logits_V, 0.0), axis=-1)
        log_sum = jax.nn.logsumexp(logits_V, axis=-1)
        entropy += log_sum - true_logit
        objective += log_sum - true_logit + z_loss * log_sum**2
        if label_smoothing:
            objective += label_smoothing * (true_logit - logits_V.mean(-1))
        hits &= true_logit >= jnp.max(logits_V, axis=-1)

    def mean(x):
        return jnp.sum(x * mask_BTHW) / jnp.maximum(jnp.sum(mask_BTHW), 1)

    masked = lambda x: jnp.sum(x * mask_BTHW, axis=(1, 2, 3))
    return mean(objective), {"cross_entropy": mean(entropy), "masked_accuracy": mean(hits)} | by_source(
        "cross_entropy", sources_BN, masked(entropy), masked(1.0))


def make_stage(config, frozen=None) -> Stage:
    """The generator's stage over a trained tokenizer.

    Metrics: of each stream, cross_entropy (also of each data set) and masked_accuracy; text_padding and padding, see
    `rows.Reader`.

    Args:
      frozen: {"params", "variables"} of the tokenizer's run.
    """
    masked_share(0.5, config.train.mask_schedule)  # an unknown name is said before anything is built
    pure, tokenizer = make_generator(config), make_tokenizer(config)
    label_smoothing, z_loss = config.train.get("label_smoothing", 0.0), config.train.get("z_loss", 0.0)
    if not 0 <= label_smoothing < 1:
        raise UserError(f"train.label_smoothing={label_smoothing} must be a share from 0 to less than 1")
    if z_loss < 0:
        raise UserError(f"train.z_loss={z_loss} must be 0 or more")
    reader = Reader(config)

    def loss(params, variables, frozen, batch, key, step):
        model, codec = pure.bind(params, variables), tokenizer.bind(frozen["params"], frozen["variables"])
        total, metrics = 0.0, {}
        for name, share, rows, loss_key in reader.streams(batch, codec, frozen, key):
            value, found = masked_loss(model, rows.tokens, rows.text, rows.text_mask, rows.given, loss_key,
                                       config.train.mask_schedule, label_smoothing, z_loss, rows.told, rows.noise,
                                       batch[name].get("sources"))
            total += share * value
            metrics |= {f"{name}/{what}": value for what, value in found.items()}
        return total, (pure.variables(model), metrics | reader.padding(batch))

    sampler = Sampler(pure, tokenizer)

    def samples(params, variables, frozen, batch, key):
        codec = {name: frozen[name] for name in ARRAYS}
        return reader.samples(sampler, {"generator": {"params": params, "variables": variables}, "tokenizer": codec},
                              frozen, batch, key)

    return Stage("generator", pure.init, pure.axes, pure.variable_axes, loss, frozen or {}, samples, **reader.given)
