"""Stage two: the masked transformer, on clips and images at once (Phenaki, section 2.2 and appendix B.2)."""

import jax
import jax.numpy as jnp
import numpy as np

from phenaki_jax.errors import UserError
from phenaki_jax.media import to_float, to_uint8
from phenaki_jax.models.build import check_text_is_ids, make_generator, make_tokenizer, tokenizer_config
from phenaki_jax.models.maskgit import Generator
from phenaki_jax.pictures import sheet
from phenaki_jax.sampling.decoding import make_sampler
from phenaki_jax.sampling.options import chosen
from phenaki_jax.sampling.schedules import latent_steps, masked_share, random_mask
from phenaki_jax.training.stage import Stage


def masked_loss(model: Generator, tokens_BTHW: jax.Array, text: jax.Array, text_mask_BP: jax.Array,
                known_B: jax.Array, key: jax.Array, schedule: str = "uniform", label_smoothing: float = 0.0,
                z_loss: float = 0.0) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The loss and, as metrics, cross-entropy and accuracy of the masked positions alone, means over all of them.

    Args:
      tokens_BTHW: true tokens; an image has T = 1, so its masks and its loss touch the first H x W tokens only.
      known_B: latent steps that are given and never masked (a story's last frames).
      schedule: of the masked share; see `masked_share`.
      label_smoothing: share of the target that is spread evenly over all codes.
      z_loss: weight of (log of the softmax's sum)^2, which keeps logits from drifting (PaLM, arXiv 2204.02311,
        section 5).
    """
    mask_key, dropout_key = jax.random.split(key)
    B, T, H, W = tokens_BTHW.shape
    free_BS = jnp.repeat(jnp.arange(T)[None, :] >= known_B[:, None], H * W, axis=1)
    mask_BTHW = random_mask(mask_key, free_BS, schedule).reshape(B, T, H, W)
    inputs = jnp.where(mask_BTHW, model.transformer.mask_id, tokens_BTHW)
    logits = model.transformer(inputs, model.read(text, text_mask_BP), key=dropout_key)
    # The true token's logit by comparison: a gather's gradient is a scatter and an argmax a slow reduction.
    is_true = jnp.arange(logits.shape[-1]) == tokens_BTHW[..., None]
    true_logit = jnp.sum(jnp.where(is_true, logits, 0.0), axis=-1)
    log_sum = jax.nn.logsumexp(logits, axis=-1)
    entropy = log_sum - true_logit
    objective = entropy + z_loss * log_sum**2
    if label_smoothing:
        objective += label_smoothing * (true_logit - logits.mean(-1))
    hits = true_logit >= jnp.max(logits, axis=-1)

    def mean(x):
        return jnp.sum(x * mask_BTHW) / jnp.maximum(jnp.sum(mask_BTHW), 1)

    return mean(objective), {"cross_entropy": mean(entropy), "masked_accuracy": mean(hits)}


def give_first(known_B: jax.Array, share: float, key: jax.Array) -> jax.Array:
    """Gives the first latent step too in a `share` of the clips of which nothing is given (random each time).

    How such a clip goes on stands in its text alone, and where its object is need not be guessed: motion is learned
    from these rows. They are also what continuing a picture needs.

    Args:
      known_B: latent steps given so far, int32.
    """
    return jnp.maximum(known_B, jax.random.uniform(key, known_B.shape) < share)


def make_stage(config, frozen=None) -> Stage:
    """The generator's stage over a trained tokenizer.

    Args:
      frozen: {"params", "variables"} of the tokenizer's run.
    """
    masked_share(0.5, config.train.mask_schedule)  # an unknown name is said before anything is built
    pure, tokenizer = make_generator(config), make_tokenizer(config)
    sizes = tokenizer_config(config)
    text_drop, first_given = config.data.text_drop, config.train.first_given
    if not 0 <= first_given <= 1:
        raise UserError(f"train.first_given={first_given} must be a share from 0 to 1")
    label_smoothing, z_loss = config.train.get("label_smoothing", 0.0), config.train.get("z_loss", 0.0)
    if not 0 <= label_smoothing < 1:
        raise UserError(f"train.label_smoothing={label_smoothing} must be a share from 0 to less than 1")
    if z_loss < 0:
        raise UserError(f"train.z_loss={z_loss} must be 0 or more")

    def loss(params, variables, frozen, batch, key, step):
        check_text_is_ids(config)
        model = pure.bind(params, variables)
        encoder = tokenizer.bind(**frozen)
        rows = {name: stream["video"].shape[0] for name, stream in batch.items()}
        total, metrics = 0.0, {}
        for index, (name, stream) in enumerate(sorted(batch.items())):
            drop_key, given_key, loss_key = jax.random.split(jax.random.fold_in(key, index), 3)
            tokens = jax.lax.stop_gradient(encoder.encode(to_float(stream["video"])))
            keep_B1 = jax.random.uniform(drop_key, (rows[name], 1)) >= text_drop
            known_B = latent_steps(stream["known_frames"], sizes.patch[0])
            if tokens.shape[1] > 1:
                known_B = give_first(known_B, first_given, given_key)
            value, found = masked_loss(model, tokens, stream["text"], (stream["text"] > 0) & keep_B1, known_B,
                                       loss_key, config.train.mask_schedule, label_smoothing, z_loss)
            total += rows[name] / sum(rows.values()) * value
            metrics |= {f"{name}/{what}": value for what, value in found.items()}
        return total, (pure.variables(model), metrics)

    sampler, options = make_sampler(pure, tokenizer), chosen(config.sampling)

    def samples(params, variables, frozen, batch, key):
        stream = batch["video" if "video" in batch else "image"]
        video, text = (np.asarray(stream[name])[:4] for name in ("video", "text"))
        tokens, frames = sampler(
            {"generator": {"params": params, "variables": variables}, "tokenizer": frozen},
            to_float(jnp.asarray(video)), jnp.asarray(text), jnp.asarray(text > 0), jax.random.split(key, len(video)),
            options, frozen=np.zeros((sizes.latent_frames(video.shape[1]), *sizes.grid[1:]), bool))
        return sheet({"truth": video, "generated": to_uint8(frames)})

    return Stage("generator", pure.init, pure.axes, pure.variable_axes, loss, frozen or {}, samples)
