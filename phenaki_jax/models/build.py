"""From a run's configuration to models as pure functions: the one place that reads its sections."""

import dataclasses

from phenaki_jax.errors import UserError
from phenaki_jax.models.cvivit import CViViT, CViViTConfig
from phenaki_jax.models.discriminator import Discriminator, DiscriminatorConfig
from phenaki_jax.models.maskgit import Generator, MaskGITConfig
from phenaki_jax.models.t5 import T5Config
from phenaki_jax.models.tree import Pure

ENCODERS = ("bytes", "precomputed", "none")  # trained along; a pretrained one's embeddings; a model without text


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


def check_text_is_ids(config) -> None:
    """Raises: UserError where text would come as embeddings of a pretrained encoder, which batches do not carry yet."""
    if config.text.encoder == "precomputed":
        raise UserError("text.encoder='precomputed' sizes a model but cannot be trained or sampled yet; "
                        "use text.encoder='bytes'")


def text_config(config) -> T5Config | None:
    """The text encoder that is trained along, or None where embeddings come from a pretrained one or there is none."""
    if config.text.encoder not in ENCODERS:
        raise UserError(f"text.encoder={config.text.encoder!r} is unknown; it is one of {', '.join(ENCODERS)}")
    section = {key: value for key, value in config.text.items() if key not in ("encoder", "length")}
    return sized(T5Config, section, "text") if config.text.encoder == "bytes" else None


def generator_config(config) -> MaskGITConfig:
    tokenizer = tokenizer_config(config)
    return sized(MaskGITConfig, config.generator, "generator", codebook_size=tokenizer.codebook_size,
                  grid=tokenizer.grid, levels=tokenizer.digits if len(tokenizer.factors) == 1 else (),
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
