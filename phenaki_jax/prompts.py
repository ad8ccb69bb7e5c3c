"""Prompts as a generator was trained to read them: checked, then ids or embeddings for the sampler."""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from phenaki_jax.errors import UserError
from phenaki_jax.input.encoder import Encoder, about_text, is_pretrained, open_encoder, vocabulary_of
from phenaki_jax.input.text import encode_batch
from phenaki_jax.models.t5 import T5Encoder


class Embedded(NamedTuple):
    """A prompt that comes as embeddings: values float [P, E], and which of its positions count, boolean [P]."""
    values: np.ndarray
    counts: np.ndarray


Prompt = str | Embedded | None  # None where a model has no text


class PromptReader:
    """Reads the prompts of a run. A pretrained encoder is loaded when the first text comes, from `config.text.path`."""

    def __init__(self, config):
        self.config = config

    @functools.cached_property
    def _vocabulary(self):
        return vocabulary_of(self.config)

    @functools.cached_property
    def _opened(self) -> Encoder | None:
        return open_encoder(self.config) if is_pretrained(self.config) else None

    @functools.cached_property
    def _encoder(self) -> T5Encoder | None:
        return self._opened and self._opened.pure.bind(jax.device_put(self._opened.params), {})

    @property
    def about(self) -> dict:
        """What embeddings of a text depend on; of a pretrained encoder also its arrays, by their hash."""
        if self._opened is not None:
            return about_text(self.config, self._opened)
        return self.config.text.to_dict() | dict.fromkeys(("path", "vocabulary", "cache"), "")  # which it does not read

    def listed(self, prompt: str | Sequence[str] | None, embeds=None, mask=None) -> list[Prompt]:
        """One prompt a video, of what a call was given.

        Args:
          embeds: instead of `prompt`, embeddings [N, P, E] by the encoder that the model was trained with; mask:
            boolean [N, P], which positions count (default: all).

        Raises: UserError for both, for neither a text nor texts, or for embeddings that do not fit the model.
        """
        if embeds is None:
            if mask is not None:
                raise UserError("prompt_attention_mask goes with prompt_embeds; leave it out")
            if prompt is None or isinstance(prompt, str):
                return [prompt]
            if not isinstance(prompt, Sequence) or not prompt:
                raise UserError(f"prompt={prompt!r} has to be a text, or a list of at least one")
            return list(prompt)
        if prompt is not None:
            raise UserError("prompt and prompt_embeds are both given; one of them is enough")
        text = self.config.text
        if text.encoder != "t5":
            raise UserError(f"prompt_embeds are for a model with a pretrained encoder; this one's is {text.encoder!r}")
        embeds = np.asarray(embeds)
        if embeds.ndim != 3 or not len(embeds) or embeds.shape[1] > text.length or embeds.shape[2] != text.embed_dim:
            raise UserError(f"prompt_embeds have shape {embeds.shape}; this model reads [N, P, {text.embed_dim}] with "
                            f"P at most {text.length}")
        mask = np.ones(embeds.shape[:2], bool) if mask is None else np.asarray(mask, bool)
        if mask.shape != embeds.shape[:2]:
            raise UserError(f"prompt_attention_mask has shape {mask.shape}; it has to be {embeds.shape[:2]}")
        return [Embedded(*pair) for pair in zip(embeds, mask)]

    def check(self, prompts: Sequence[Prompt], negative: Sequence[str] | None) -> None:
        """Raises: UserError where a prompt is missing, too long or not for this model, or the encoder is gone."""
        if self.config.text.encoder == "none":
            unread = next(filter(None, [*prompts, *(negative or ())]), None)
            if unread:
                raise UserError(f"prompt {unread!r} cannot be read: this model was trained without text "
                                "(text.encoder='none'); leave it out")
            return
        texts = [prompt for prompt in prompts if not isinstance(prompt, Embedded)]
        if not all(isinstance(text, str) and text.strip() for text in texts):
            raise UserError("prompt is empty; say what the video shows")
        texts += negative or ()
        if not texts:
            return
        for text in texts:
            try:
                text.encode()
            except UnicodeEncodeError as error:
                raise UserError(f"prompt {text[:40]!r} is no Unicode text: its character {error.start} is half of a "
                                "pair, as of a byte that is not UTF-8") from None
        length, unit = self.config.text.length, "bytes" if self._encoder is None else "ids"
        count, longest = max((len(self._vocabulary.encode(text)), text) for text in texts)
        if count >= length:
            raise UserError(f"prompt {longest[:40]!r}... has {count} {unit}; this model reads {length - 1} "
                            f"(text.length={length})")

    def __call__(self, prompts: Sequence[Prompt]) -> tuple[jax.Array | None, jax.Array | None]:
        """Ids int32 [N, P] or embeddings [N, P, E], and which positions count, boolean [N, P]; None without text."""
        text = self.config.text
        if text.encoder == "none":
            return None, None
        if isinstance(prompts[0], Embedded):
            padded = [[np.pad(part, ((0, text.length - len(part)),) + ((0, 0),) * (part.ndim - 1)) for part in prompt]
                      for prompt in prompts]
            return tuple(jnp.asarray(np.stack(part)) for part in zip(*padded))
        ids = jnp.asarray(encode_batch(prompts, text.length, self._vocabulary))
        return ids if self._encoder is None else self._encoder(ids), ids > 0
