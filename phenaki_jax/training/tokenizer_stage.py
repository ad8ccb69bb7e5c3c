"""Stage one: C-ViViT under the paper's loss, a weighted sum of named terms (Phenaki, section 2.1 and B.1)."""

import jax
import jax.numpy as jnp
import numpy as np

from phenaki_jax.media import to_float, to_uint8
from phenaki_jax.models.build import make_discriminator, make_tokenizer
from phenaki_jax.pictures import grid, sheet
from phenaki_jax.training.adversarial import lecam_state
from phenaki_jax.training.by_source import by_source
from phenaki_jax.training.stage import Stage
from phenaki_jax.training.tokenizer_losses import (
    Adversary, Perception, adversarial_terms, comparison, loss_config, pulled)

AID = "discriminator"


def make_stage(config, frozen=None) -> Stage:
    """The tokenizer's stage; `config` is a run's: `tokenizer` sizes the model, `loss` weighs its terms and
    `discriminator` sizes the adversary where there is one. `frozen` is not used."""
    options = loss_config(config)
    pure = make_tokenizer(config)
    perception = Perception.load(options)
    discriminator = make_discriminator(config) if options.adversarial else None

    def init(key):
        params, variables = pure.init(key)
        if discriminator:
            params[AID], _ = discriminator.init(jax.random.fold_in(key, 1))
            variables[AID] = lecam_state()
        return params, variables

    def loss(params, variables, frozen, batch, key, step):
        model = pure.bind(stage.model_part(params), stage.model_part(variables))
        averages = variables.get(AID)
        rows = {name: stream["video"].shape[0] for name, stream in batch.items()}
        total, metrics = 0.0, {}
        # The stream with most pixels first: a codebook that starts from a batch (tokenizer.kmeans_start) sees that one.
        by_size = sorted(enumerate(sorted(batch)), key=lambda item: -batch[item[1]]["video"].size)
        for index, name in by_size:
            video, share = to_float(batch[name]["video"]), rows[name] / sum(rows.values())
            model_key, loss_key = (jax.random.fold_in(key, i) for i in (index, len(batch) + index))
            # With tokenizer.code_noise this is from disturbed codes: l2 and psnr are worse than what the model can do.
            reconstruction, quantized = model(video, train=True, key=model_key)
            compared, pull, found = comparison(
                options, perception, frozen, video, reconstruction, key=loss_key, step=step)
            weighted = pulled(compared, pull, reconstruction) + options.quantizer * quantized.loss
            found |= {"quantizer": quantized.loss, "psnr": 10 * jnp.log10(4.0 / jnp.maximum(found["l2"], 1e-12))}
            if discriminator:
                adversary = Adversary(options, discriminator, params[AID], averages, step)
                played, averages, more = adversarial_terms(adversary, video, reconstruction, pull, loss_key)
                weighted += played
                found |= more
            found |= by_source("l2", batch[name].get("sources"),
                               jnp.mean(jnp.square(reconstruction - video), axis=(1, 2, 3, 4)))
            total += share * weighted
            metrics = {f"{name}/{what}": value for what, value in found.items()} | quantized.metrics | metrics
        variables = pure.variables(model) | ({AID: averages} if discriminator else {})
        return total, (variables, metrics)

    @jax.jit
    def reconstruct(params, variables, video):
        model = pure.bind(params, stage.model_part(variables))
        return model.decode(model.encode(to_float(video)))

    def samples(params, variables, frozen, batch, key):
        sheets = []
        for name in sorted(batch, reverse=True):  # clips before images
            video = np.asarray(batch[name]["video"])[:4]
            restored = to_uint8(reconstruct(params, variables, video))
            difference = np.abs(video.astype(int) - restored).astype(np.uint8)
            sheets.append([sheet({"truth": video, "reconstruction": restored, "difference": difference})])
        return grid(sheets)

    axes, variable_axes, aids = dict(pure.axes), dict(pure.variable_axes), ()
    if discriminator:
        axes[AID], variable_axes[AID], aids = discriminator.axes, {name: () for name in lecam_state()}, (AID,)
    stage = Stage("tokenizer", init, axes, variable_axes, loss, {}, samples, perception.arrays, aids)
    return stage
