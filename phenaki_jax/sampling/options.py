"""How tokens are sampled: one value with every choice, and the paper's presets of it."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from phenaki_jax.errors import UserError, at_least

GUIDANCE_SCHEDULES = ("constant", "linear")
MASK_SCHEDULES = ("cosine", "arccos", "linear", "square")
ORDERS = ("confidence", "halton", "random", "critic")


@dataclasses.dataclass(frozen=True)
class Sampling:
    """MaskGIT's decoding and what has been made of it since.

    Attributes:
      num_inference_steps: passes of the transformer.
      guidance_scale: lambda of (1 + lambda) cond - lambda uncond; 0 is none, at half the cost.
      image_guidance_scale: w of nothing + w (image - nothing) + (1 + guidance_scale) (both - image), where frames are
        given: above 1 what follows keeps closer to them, below 1 less so (`guidance.guide_apart`, three times the
        cost). At 1 they are a condition like any other.
      temperature: of the choice: scales the Gumbel noise on the confidences, falling to 0. Tokens themselves are drawn
        from softmax(logits).
      guidance_schedule: 'constant', or 'linear', rising from guidance_scale / steps to guidance_scale (Muse, arXiv
        2301.00704, section 2.7).
      mask_schedule: how many tokens are still masked after each pass, see `schedules.masked_counts`.
      order: which are kept first: the most confident ('confidence'), an even spread over the grid fixed in advance
        ('halton', arXiv 2503.17076), any ('random'), or those that a token critic takes for the data's ('critic',
        after arXiv 2209.04439, for a critic's run).
      remask: share of the tokens decided so far, the least confident of them or those that a critic doubts most, that
        each pass makes anew; 0 for none (remasking, ReMDM, arXiv 2503.00307, by confidence). As many tokens are masked
        as without.
      noise_augmentation: share of the given tokens that the model sees as random ones, for models with the condition
        'noise': what follows keeps less to their details, and their errors. In what comes out they are as given.
    """
    num_inference_steps: int = 24
    guidance_scale: float = 6.0
    temperature: float = 4.0
    guidance_schedule: str = "constant"
    mask_schedule: str = "cosine"
    order: str = "confidence"
    remask: float = 0.0
    image_guidance_scale: float = 1.0
    noise_augmentation: float = 0.0

    def __post_init__(self):
        at_least("num_inference_steps", self.num_inference_steps, 1)
        for name, least, most in (("guidance_scale", -1, np.inf), ("image_guidance_scale", 0, np.inf),
                                  ("temperature", 0, np.inf), ("remask", 0, 1), ("noise_augmentation", 0, 1)):
            value = getattr(self, name)
            is_number = isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
            if not is_number or not np.isfinite(value) or not least <= value <= most:
                end = f" and at most {most}" if most < np.inf else ""
                raise UserError(f"{name}={value!r} must be a number of at least {least}{end}")
        for name, known in (("guidance_schedule", GUIDANCE_SCHEDULES), ("mask_schedule", MASK_SCHEDULES),
                            ("order", ORDERS)):
            if getattr(self, name) not in known:
                raise UserError(f"{name}={getattr(self, name)!r} is unknown; it is one of {', '.join(known)}")

    @property
    def guided(self) -> bool:
        """Whether the prompt is weighed against none."""
        return bool(self.guidance_scale)

    @property
    def guided_apart(self) -> bool:
        """Whether given frames are weighed against none, too."""
        return self.image_guidance_scale != 1


# B.3: against NUWA, in the ablation of the mixes, and for the videos that the paper shows.
PRESETS = {
    "nuwa": Sampling(12, 0.1, 4.0),
    "ablation": Sampling(24, 6.0, 4.0),
    "showcase": Sampling(48, 12.0, 8.0),
}


def chosen(section: Mapping[str, Any], preset: str | None = None, **given: Any) -> Sampling:
    """The sampling that is asked for: what is given, else the preset's, else a run's own.

    Args:
      section: of the run's config, `sampling`: what is recommended for that model, also as preset 'recommended'.
      given: fields of `Sampling`; None counts as not given.

    Raises:
      UserError: an unknown preset or field, or a value out of its range.
    """
    if preset not in (None, "recommended", *PRESETS):
        raise UserError(f"preset={preset!r} is unknown; it is one of recommended, {', '.join(PRESETS)}")
    values = dataclasses.asdict(PRESETS[preset]) if preset in PRESETS else dict(section)
    values |= {name: value for name, value in given.items() if value is not None}
    known = [field.name for field in dataclasses.fields(Sampling)]
    for name in values:
        if name not in known:
            raise UserError(f"sampling.{name} is unknown; the fields of sampling are {', '.join(known)}")
    return Sampling(**values)
