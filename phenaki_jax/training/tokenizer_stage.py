"""Stage one: C-ViViT. Its loss is a sum of named terms, L_VQ + L_2 so far (Phenaki, section 2.1 and B.1)."""

import jax
import jax.numpy as jnp
import numpy as np

from phenaki_jax.media import to_float, to_uint8
from phenaki_jax.models.build import make_tokenizer
from phenaki_jax.models.cvivit import CViViT
from phenaki_jax.pictures import sheet
from phenaki_jax.training.stage import Stage


def loss_terms(model: CViViT, video_BFYXC: jax.Array, key: jax.Array) -> tuple[dict[str, jax.Array], dict]:
    """Every term of the loss of one stream, unweighted, and the quantizer's metrics.

    With tokenizer.code_noise the reconstruction is from disturbed codes, so l2 and psnr are worse than what it can do.
    Terms that compare video with reconstruction (perceptual, adversarial) join here, each under its own name.
    """
    reconstruction, quantized = model(video_BFYXC, train=True, key=key)
    l2 = jnp.mean(jnp.square(reconstruction - video_BFYXC))
    return {"l2": l2, "quantizer": quantized.loss}, quantized.metrics


def make_stage(config, frozen=None) -> Stage:
    """The tokenizer's stage; `config` is a run's, its `tokenizer` section sizes the model. `frozen` is not used."""
    pure = make_tokenizer(config)
    weights = {"l2": 1.0, "quantizer": 1.0}

    def loss(params, variables, frozen, batch, key):
        model = pure.bind(params, variables)
        rows = {name: stream["video"].shape[0] for name, stream in batch.items()}
        total, metrics = 0.0, {}
        for index, (name, stream) in enumerate(sorted(batch.items())):
            terms, quantizer_metrics = loss_terms(model, to_float(stream["video"]), jax.random.fold_in(key, index))
            share = rows[name] / sum(rows.values())
            total += share * sum(weights[term] * value for term, value in terms.items())
            metrics |= {f"{name}/{term}": value for term, value in terms.items()} | quantizer_metrics
            metrics[f"{name}/psnr"] = 10 * jnp.log10(4.0 / jnp.maximum(terms["l2"], 1e-12))
        return total, (pure.variables(model), metrics)

    @jax.jit
    def reconstruct(params, variables, video):
        model = pure.bind(params, variables)
        return model.decode(model.encode(to_float(video)))

    def samples(params, variables, frozen, batch, key):
        video = batch["video" if "video" in batch else "image"]["video"][:4]
        return sheet({"truth": np.asarray(video), "reconstruction": to_uint8(reconstruct(params, variables, video))})

    return Stage("tokenizer", pure.init, pure.axes, pure.variable_axes, loss, {}, samples)
