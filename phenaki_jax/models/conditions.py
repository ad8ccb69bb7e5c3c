"""Numbers that a generator is told beside the text: how much moves, at which frame rate, how noisy what is given is."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from phenaki_jax.errors import UserError
from phenaki_jax.layers.products import kernel, project

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
    """One vector for all that is told: the numbers in waves of several lengths, through a small MLP.

    What is not told adds nothing, and where nothing is told the vector is zero.
    """

    def __init__(self, names: tuple[str, ...], features: int, *, rngs: nnx.Rngs):
        self.names = names
        self.hidden = kernel(rngs, (len(names) * (2 * WAVES + 1), features), (None, "mlp"))
        self.out = kernel(rngs, (features, features), ("mlp", "embed"), scale=0.01)

    def __call__(self, values_BN: jax.Array) -> jax.Array:
        """Numbers float32 [B, N], NaN where not told -> [B, features]."""
        known_BN1 = ~jnp.isnan(values_BN)[..., None]
        values_BN = jnp.where(known_BN1[..., 0], values_BN, 1.0)
        scaled_BN = jnp.stack([CONDITIONS[name](values_BN[:, i]) for i, name in enumerate(self.names)], axis=1)
        angles = scaled_BN[..., None] * np.pi * 2.0 ** (np.arange(WAVES) / 2)
        waves = jnp.concatenate([jnp.sin(angles), jnp.cos(angles), jnp.ones_like(angles[..., :1])], axis=-1)
        hidden = jax.nn.gelu(project(jnp.where(known_BN1, waves, 0.0).reshape(values_BN.shape[0], -1), self.hidden))
        return project(hidden, self.out)
