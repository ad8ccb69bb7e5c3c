"""Classifier-free guidance on logits."""

import jax


def guide(conditional: jax.Array, unconditional: jax.Array, scale: jax.Array | float) -> jax.Array:
    """(1 + scale) * conditional - scale * unconditional; 0 is no guidance (Phenaki, section 3)."""
    return (1 + scale) * conditional - scale * unconditional


def guide_apart(both: jax.Array, image: jax.Array, nothing: jax.Array, scale: jax.Array | float,
                image_scale: jax.Array | float) -> jax.Array:
    """Prompt and given frames weighed apart: nothing + image_scale (image - nothing) + (1 + scale) (both - image).

    InstructPix2Pix's formula (arXiv 2211.09800, equation 3), with text as `guide` has it: at an image_scale of 1 the
    result is guide(both, image, scale).

    Args:
      both: logits with prompt and given frames; image: without the prompt; nothing: with neither.
    """
    return nothing + image_scale * (image - nothing) + (1 + scale) * (both - image)
