"""From a run's configuration to models as pure functions: the one place that reads its sections."""

import dataclasses

from phenaki_jax.errors import UserError
from phenaki_jax.models.cvivit import CViViT, CViViTConfig
from phenaki_jax.models.discriminator import Discriminator, DiscriminatorConfig
from phenaki_jax.models.maskgit import Critic, Generator, MaskGITConfig
from phenaki_jax.models.t5 import T5Config
from phenaki_jax.models.tree import Pure

ENCODERS = ("bytes", "t5", "none")  # trained along; a pretrained one, frozen; a model without text
NO_SIZES = ("encoder", "length", "path", "vocabulary", "cache")  # fields of `text` that size no encoder


def sized(kind, section, name: str, **more):
    """`kind(**section)`; a field that the model does not know is the user's mistake."""
    known = {field.name for field in dataclasses.fields(kind)}
    values = {key: tuple(value) if isinstance(value, (list, tuple)) else value for key, value in section.items()}
    for key in values:
        if key not in known:
            raise UserError(f"{name}.{key} is unknown; the fields of {name} are {', '.join(sorted(known))}")
    return kind(**values, **more)


def tokenizer_config(config) -> CViViTConfig:
    return sized(CViViTConfig, config.tokenizer, "tokenizer")


def text_config(config) -> T5Config | None:
    """The text encoder that is trained along, or None where it is a pretrained one or there is none."""
    if config.text.encoder not in ENCODERS:
        raise UserError(f"text.encoder={config.text.encoder!r} is unknown; it is one of {', '.join(ENCODERS)}")
    section = {key: value for key, value in config.text.items() if key not in NO_SIZES and value != ""}
    return sized(T5Config, section, "text") if config.text.encoder == "bytes" else None


def generator_config(config) -> MaskGITConfig:
    return _token_sizes(config, config.generator, "generator")


def critic_config(config) -> MaskGITConfig:
    """The critic's sizes: `config.critic`, over the generator's tokens and conditions."""
    conditions = config.generator.get("conditions", ())
    return _token_sizes(config, config.critic.to_dict() | {"conditions": conditions}, "critic")


def _token_sizes(config, section, name: str) -> MaskGITConfig:
    tokenizer = tokenizer_config(config)
    whole = len(tokenizer.factors) == 1
    return sized(MaskGITConfig, section, name, codebook_size=tokenizer.codebook_size, grid=tokenizer.grid,
                 levels=tokenizer.digits if whole else (), factors=() if whole else tokenizer.factors,
                 text_dim=0 if config.text.encoder == "none" else config.text.embed_dim)


def make_tokenizer(config) -> Pure:
    """C-ViViT as `config.tokenizer` sizes it."""
    sizes = tokenizer_config(config)
    return Pure(lambda rngs: CViViT(sizes, rngs=rngs), sizes)


def make_discriminator(config) -> Pure:
    """The tokenizer's adversary as `config.discriminator` sizes it."""
    sizes = sized(DiscriminatorConfig, config.get("discriminator") or {}, "discriminator")
    return Pure(lambda rngs: Discriminator(sizes, rngs=rngs), sizes)


def make_generator(config) -> Pure:
    """The masked transformer as `config.generator` sizes it, with the text encoder of `config.text`."""
    sizes, text = generator_config(config), text_config(config)
    return Pure(lambda rngs: Generator(sizes, text, rngs=rngs), sizes)


def make_critic(config) -> Pure:
    """The token critic as `config.critic` sizes it."""
    sizes = critic_config(config)
    return Pure(lambda rngs: Critic(sizes, rngs=rngs), sizes)
