"""MaskGIT's iterative parallel decoding (arXiv 2202.04200, section 3.2), whole in one compiled function or in parts."""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from phenaki_jax.models.codes import join_tokens
from phenaki_jax.models.maskgit import Reading, split_logits
from phenaki_jax.models.tree import Pure
from phenaki_jax.sampling.guidance import guide, guide_apart
from phenaki_jax.sampling.options import Sampling
from phenaki_jax.sampling.schedules import halton_ranks, masked_counts, remasked_counts


class Scales(NamedTuple):
    """The options that are numbers only: as arrays, so that another value needs no other program."""
    guidance: jax.Array | float
    image_guidance: jax.Array | float
    temperature: jax.Array | float
    noise: jax.Array | float

    @classmethod
    def of(cls, options: Sampling) -> "Scales":
        return cls(*map(jnp.float32, (options.guidance_scale, options.image_guidance_scale, options.temperature,
                                      options.noise_augmentation)))


class Round(NamedTuple):
    """What one round of decoding leaves to the next, [B, S] each.

    tokens: int32, masks where not decided. sure: log-probability of each decided token when it was drawn. filled:
    tokens with the last round's draws in place of masks, a preview.
    """
    tokens: jax.Array
    sure: jax.Array
    filled: jax.Array


Watch = Callable[[int, int, jax.Array, jax.Array], jax.Array | None]


def begin(tokens_BS: jax.Array, free_BS: jax.Array, mask_id: int) -> Round:
    """Before the first round: all that is free is masked."""
    tokens_BS = jnp.where(free_BS, mask_id, tokens_BS)
    return Round(tokens_BS, jnp.zeros(tokens_BS.shape), tokens_BS)


def advance(state: Round, first: int | jax.Array, last: int | jax.Array, logits_of: Callable[[jax.Array], jax.Array],
            free_BS: jax.Array, keys_B: jax.Array, options: Sampling, *, mask_id: int, free: int,
            digits: tuple[int, ...], ranks_S: jax.Array | None = None, scales: Scales | None = None,
            fake_of: Callable[[jax.Array], jax.Array] | None = None) -> Round:
    """Rounds `first` to `last` - 1: sample all, keep those that come first in order, mask the rest again.

    Args:
      logits_of: tokens int32 [N, S] -> logits [N, S, V]. With guidance, N is 2 B: the rows with their text, then the
        same without (or with the text to keep away from); guided apart it is 3 B: then the same with neither text nor
        what is given.
      free_BS: boolean, True where a token is to be made; `free` positions in every row. The others stay as they are.
      keys_B: a random key for each row, whose tokens depend on no other row.
      digits: sizes of the digits of a token, each sampled by itself, whose logits stand one after the other in V.
      ranks_S: of each position, for the order 'halton'.
      scales: instead of the options' own.
      fake_of: complete tokens int32 [B, S] -> logits [B, S] of being a model's, for the order 'critic'.
    """
    steps, batch = options.num_inference_steps, free_BS.shape[0]
    counts = masked_counts(steps, free, options.mask_schedule)
    counts_N, again_N = jnp.asarray(counts), jnp.asarray(remasked_counts(counts, free, options.remask))
    scales = Scales.of(options) if scales is None else scales

    def predict(tokens_BS, index):
        if not options.guided and not options.guided_apart:
            return logits_of(tokens_BS)
        scale = scales.guidance * ((index + 1) / steps if options.guidance_schedule == "linear" else 1.0)
        if not options.guided_apart:
            logits = logits_of(jnp.tile(tokens_BS, (2, 1)))
            return guide(logits[:batch], logits[batch:], scale)
        logits = logits_of(jnp.concatenate([tokens_BS, tokens_BS, jnp.where(free_BS, tokens_BS, mask_id)]))
        return guide_apart(*jnp.split(logits, 3), scale, scales.image_guidance)

    def lowest(value_BS, count):
        return jnp.argsort(jnp.argsort(value_BS, axis=1), axis=1) < count

    def round_(index, state):
        keys_2B = jax.vmap(lambda key: jax.random.split(jax.random.fold_in(key, index)))(keys_B)
        masked_BS = state.tokens == mask_id
        drawn_BS, logp_BS = draw(predict(state.tokens, index), keys_2B[:, 0], digits)
        filled_BS = jnp.where(masked_BS, drawn_BS, state.tokens)
        sure_BS = jnp.where(masked_BS, logp_BS, state.sure)
        gumbel_BS = jax.vmap(lambda key: jax.random.gumbel(key, sure_BS.shape[1:]))(keys_2B[:, 1])
        noise_BS = scales.temperature * (1 - (index + 1) / steps) * gumbel_BS
        score_BS = noise_BS - fake_of(filled_BS) if options.order == "critic" else sure_BS + noise_BS
        first_BS = {"confidence": score_BS, "critic": score_BS, "random": gumbel_BS,
                    "halton": None if ranks_S is None else jnp.broadcast_to(-ranks_S, sure_BS.shape)}[options.order]
        # Where a caller has filled masks by itself there are fewer than are to stay.
        stay_BS = masked_BS & lowest(jnp.where(masked_BS, first_BS, jnp.inf), counts_N[index] - again_N[index])
        if options.remask:
            decided_BS = free_BS & ~masked_BS
            stay_BS |= decided_BS & lowest(jnp.where(decided_BS, score_BS, jnp.inf), again_N[index])
        return Round(jnp.where(stay_BS, mask_id, filled_BS), sure_BS, filled_BS)

    return jax.lax.fori_loop(first, last, round_, state)


def draw(logits_BSV: jax.Array, keys_B: jax.Array, digits: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
    """Tokens int32 [B, S] from softmax(logits), digit by digit, and their log-probabilities [B, S].

    The largest of logits + Gumbel noise, found by comparison with the maximum: an argmax and a gather are slow on CPUs.
    """
    drawn, total = [], 0.0
    for place, logits in enumerate(split_logits(logits_BSV, digits)):
        keys = jax.vmap(lambda key: jax.random.fold_in(key, place))(keys_B) if place else keys_B
        noisy = logits + jax.vmap(lambda key: jax.random.gumbel(key, logits.shape[1:]))(keys)
        ids, size = jnp.arange(logits.shape[-1]), logits.shape[-1]
        drawn.append(jnp.min(jnp.where(noisy >= noisy.max(-1, keepdims=True), ids, size), axis=-1).astype(jnp.int32))
        chosen = jnp.sum(jnp.where(ids == drawn[-1][..., None], logits, 0.0), axis=-1)
        total += chosen - jax.nn.logsumexp(logits, axis=-1)
    return join_tokens(jnp.stack(drawn, axis=-1), digits), total


class Sampler:
    """The one core behind every way of sampling: given frames and text in, tokens and frames out.

    Called as sampler(arrays, video, text, text_mask, keys, options, *, frozen, negative=None, conditions=None) it gives
    (tokens int32 [B, T, H, W], video float [B, F, Y, X, 3] in [-1, 1]), compiled once for each shape, number of frozen
    tokens and those options that are no mere scale. `arrays` holds the params and variables of "generator", "tokenizer"
    and, for the order 'critic', "critic". `frozen`, boolean [T, H, W]: where the tokens are `video`'s own; of the rest
    of `video` nothing is seen but its shape. `keys` [B], one a row. `negative`: (text, mask) like the text's, from
    which guidance leads away. `conditions`: float32 [B, N], NaN where nothing is told.
    `scales` go before those of the options. With `watch` it goes round by round: watch(rounds done, of how many, tokens
    [B, T, H, W] with masks, log-probabilities [B, T, H, W] of the decided ones when they were drawn) may give other
    tokens to go on with.
    `stream` takes the same, and gives previews on the way from the same rounds.
    """

    def __init__(self, generator: Pure, tokenizer: Pure, critic: Pure | None = None):
        self._generator, self._tokenizer, self._critic = generator, tokenizer, critic

        @functools.partial(jax.jit, static_argnames=("steps", "free", "plan"))
        def sample(arrays, given, steps, free, plan):
            start, read = self._start(arrays, given, steps, plan)
            return self._decode(arrays, self._advance(arrays, start, read, 0, plan.num_inference_steps, given, free,
                                                      plan), given)

        self._sample = sample
        self._start_jit = jax.jit(self._start, static_argnames=("steps", "plan"))
        self._advance_jit = jax.jit(self._advance, static_argnames=("free", "plan"))
        self._decode_jit = jax.jit(self._decode)

    def __call__(self, arrays: Any, video, text, text_mask, keys, options: Sampling, *, frozen: np.ndarray,
                 negative=None, conditions=None, watch: Watch | None = None,
                 scales: Scales | None = None) -> tuple[jax.Array, jax.Array]:
        given, static = self._given(video, text, text_mask, keys, options, frozen, negative, conditions)
        given["scales"] = given["scales"] if scales is None else scales
        if watch is None:
            return self._sample(arrays, given, **static)
        for _, state in self._rounds(arrays, given, static, 1, watch):
            pass
        return self._decode_jit(arrays, state, given)

    def stream(self, arrays: Any, video, text, text_mask, keys, options: Sampling, *, every: int, frozen: np.ndarray,
               negative=None, conditions=None) -> Iterator[tuple[int, jax.Array, jax.Array]]:
        """(rounds done, tokens, video) after every `every` rounds and at the end, which is what a call gives.

        On the way, tokens that are not decided yet are the last round's draws.
        """
        given, static = self._given(video, text, text_mask, keys, options, frozen, negative, conditions)
        for done, state in self._rounds(arrays, given, static, every):
            yield done, *self._decode_jit(arrays, state, given)

    def _rounds(self, arrays, given, static, every: int, watch: Watch | None = None) -> Iterator[tuple[int, Round]]:
        """(rounds done, state) after every `every` rounds and at the end."""
        plan, free, grid = static["plan"], static["free"], given["frozen"].shape
        state, read = self._start_jit(arrays, given, static["steps"], plan)
        done, total = 0, plan.num_inference_steps
        while done < total:
            ahead = min(done + every, total)
            state, done = self._advance_jit(arrays, state, read, done, ahead, given, free, plan), ahead
            if watch is not None:
                other = watch(done, total, *(x.reshape(-1, *grid) for x in (state.tokens, state.sure)))
                if other is not None:
                    tokens, mask_id = other.reshape(state.tokens.shape), self._generator.module_config.codebook_size
                    state = Round(tokens, state.sure, jnp.where(tokens == mask_id, state.filled, tokens))
            yield done, state

    def _given(self, video, text, text_mask, keys, options, frozen, negative, conditions):
        """What a program is given as arrays, and what it is compiled for."""
        options = self._effective(options, frozen)
        given = {"video": video, "text": text, "text_mask": text_mask, "keys": keys, "scales": Scales.of(options),
                 "frozen": jnp.asarray(frozen), "negative": negative if options.guided else None,
                 "conditions": conditions}
        return given, self.static(options, frozen)

    def _effective(self, options: Sampling, frozen: np.ndarray) -> Sampling:
        """The options without weights of what is not there."""
        if not self._generator.module_config.is_told:
            options = dataclasses.replace(options, guidance_scale=0.0)
        return options if frozen.any() else dataclasses.replace(options, image_guidance_scale=1.0)

    def static(self, options: Sampling, frozen: np.ndarray) -> dict[str, Any]:
        """What beside the arrays' shapes a program is compiled for: hashable values by name."""
        options = self._effective(options, frozen)
        plan = dataclasses.replace(options, guidance_scale=float(options.guided), temperature=0.0,
                                   image_guidance_scale=float(not options.guided_apart),
                                   noise_augmentation=float(options.noise_augmentation > 0))
        steps = int(np.max(np.flatnonzero(frozen.any((1, 2))), initial=-1)) + 1
        return {"steps": steps, "free": int(np.sum(~frozen)), "plan": plan}

    def _start(self, arrays, given, steps, plan):
        """The state before the first round, and what transformers read of text and conditions."""
        model, codec = self._generator.bind(**arrays["generator"]), self._tokenizer.bind(**arrays["tokenizer"])
        (T, H, W), B = given["frozen"].shape, given["video"].shape[0]
        tokens_BS = jnp.zeros((B, T * H * W), jnp.int32)
        if steps:  # causal: what comes after the last frozen step has no say
            known = codec.encode(given["video"][:, :1 + codec.config.patch[0] * (steps - 1)])
            tokens_BS = tokens_BS.at[:, :steps * H * W].set(known.reshape(B, -1))
        text, mask, conditions = given["text"], given["text_mask"], given["conditions"]
        read = model.read(text, mask, conditions)
        judged = None
        if plan.order == "critic":
            judged = self._critic.bind(**arrays["critic"]).read(model.embed(text), mask, conditions)
        if read is not None and (plan.guided or plan.guided_apart):
            nothing, away = read.nothing(), given["negative"]
            read = Reading.join([read, nothing if away is None else model.read(*away)] + [nothing] * plan.guided_apart)
        free_BS = jnp.broadcast_to(~given["frozen"].reshape(-1), tokens_BS.shape)
        return begin(tokens_BS, free_BS, model.transformer.mask_id), (read, judged)

    def _advance(self, arrays, state, read, first, last, given, free, plan):
        model, (T, H, W) = self._generator.bind(**arrays["generator"]), given["frozen"].shape
        frozen_S, mask_id = given["frozen"].reshape(-1), model.transformer.mask_id
        read, judged = read
        grid = lambda tokens_NS: tokens_NS.reshape(-1, T, H, W)

        def noise(key):
            """Which positions are random where they are given, and what stands there then, [S] each."""
            some, which = jax.random.split(jax.random.fold_in(key, jnp.uint32(2**32 - 1)))
            return (jax.random.uniform(some, frozen_S.shape) < given["scales"].noise,
                    jax.random.randint(which, frozen_S.shape, 0, mask_id))

        def logits_of(tokens_NS):
            shape = tokens_NS.shape
            if plan.noise_augmentation:
                noisy_NS, other_NS = (jnp.resize(x, shape) for x in jax.vmap(noise)(given["keys"]))
                tokens_NS = jnp.where(noisy_NS & frozen_S & (tokens_NS != mask_id), other_NS, tokens_NS)
            return model.transformer(grid(tokens_NS), read).reshape(*shape, -1)

        def fake_of(tokens_BS):
            return self._critic.bind(**arrays["critic"])(grid(tokens_BS), judged).reshape(tokens_BS.shape)

        ranks_S = jnp.asarray(halton_ranks((T, H, W))) if plan.order == "halton" else None
        return advance(state, first, last, logits_of, jnp.broadcast_to(~frozen_S, state.tokens.shape), given["keys"],
                       plan, mask_id=mask_id, free=free, digits=model.transformer.config.digits, ranks_S=ranks_S,
                       scales=given["scales"], fake_of=fake_of)

    def _decode(self, arrays, state, given):
        tokens = state.filled.reshape(-1, *given["frozen"].shape)
        return tokens, self._tokenizer.bind(**arrays["tokenizer"]).decode(tokens)
