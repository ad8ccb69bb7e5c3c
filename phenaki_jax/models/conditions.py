"""Numbers that a generator is told beside the text: how much moves, at which frame rate, how noisy what is given is."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from phenaki_jax.errors import UserError
from phenaki_jax.layers.products import kernel

# What each number is mapped to before it is embedded: about 0 to 1 over the values that occur.
CONDITIONS = {
    "motion": lambda x: x / (x + 25.0),  # `input.motion.motion_score`: per cent of the frame a second
    "fps": lambda x: jnp.log2(x) / 6.0,  # frames a second
    "noise": lambda x: x,  # share of the given tokens that are random
}
WAVES = 8


def check_conditions(names: tuple[str, ...]) -> None:
    """Raises: UserError where one is unknown or comes twice."""
    for name in names:
        if name not in CONDITIONS or names.count(name) > 1:
            raise UserError(f"generator.conditions={names} has to be some of {', '.join(CONDITIONS)}, each once")


class Conditions(nnx.Module):
    """A vector for each condition: its number in waves of several lengths, projected, and a vector of its own."""

    def __init__(self, names: tuple[str, ...], features: int, *, rngs: nnx.Rngs):
        self.names = names
        self.kernels = nnx.Param(jnp.stack([kernel(rngs, (2 * WAVES, features), (None, "embed"))[...] for _ in names]),
                                 axes=(None, None, "embed"))
        self.own = nnx.Param(nnx.initializers.normal(1.0)(rngs.params(), (len(names), features)), axes=(None, "embed"))

    def __call__(self, values_BN: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Numbers float32 [B, N], NaN where unknown -> vectors [B, N, E] and which are known, boolean [B, N]."""
        known_BN = ~jnp.isnan(values_BN)
        values_BN = jnp.where(known_BN, values_BN, 1.0)
        scaled_BN = jnp.stack([CONDITIONS[name](values_BN[:, i]) for i, name in enumerate(self.names)], axis=1)
        angles = scaled_BN[..., None] * np.pi * 2.0 ** (np.arange(WAVES) / 2)
        waves = jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)
        return jnp.einsum("bnw,nwe->bne", waves, self.kernels[...]) + self.own[...], known_BN
