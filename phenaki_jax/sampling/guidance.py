"""Classifier-free guidance on logits."""

import jax


def guide(conditional: jax.Array, unconditional: jax.Array, scale: jax.Array | float) -> jax.Array:
    """(1 + scale) * conditional - scale * unconditional; 0 is no guidance (Phenaki, section 3)."""
    return (1 + scale) * conditional - scale * unconditional
