"""What is measured of a model in the sprite world, as pure functions of a pipeline, prompts and facts.

Results are dicts of numbers that JSON can hold, except for "frames", the videos themselves. A share always comes
with the number of cases it was counted over and its 95 % Wilson interval.
"""

import dataclasses
from typing import Any, Mapping, Sequence

import numpy as np

from phenaki_jax.errors import UserError
from phenaki_jax.evaluation import sprite_world as sw
from phenaki_jax.evaluation.attributes import ATTRIBUTES, Attributes, agreement, judge_many
from phenaki_jax.evaluation.distances import psnr_per_video, ssim_per_video

KEEPABLE = ("colour", "shape", "style", "background")  # what a scene can take over from the one before


# ---------------------------------------------------------------------------------------------- the three protocols

def tokenizer_protocol(pipe: Any, clips: np.ndarray, facts: Sequence[Mapping], *, batch_size: int = 32,
                       objects: Sequence[str] = sw.SHAPES) -> dict:
    """What a tokenizer keeps of clips whose facts are known.

    Args:
      pipe: has `reconstruct(uint8 video)`, `encode(uint8 video) -> int tokens` and `tokenizer.codebook_size`.
      clips: uint8 [N, F, Y, X, 3].
      facts: N dicts; see `attributes.agreement`.

    Returns:
      The keys of `agreement_summary` for the reconstructions; "control", the same for the clips themselves; "psnr"
      (dB) and "ssim"; "codebook" (see `codebook_use`); "frames", the reconstructions.
    """
    _same_length(clips=clips, facts=facts)
    frames, tokens = [], []
    for part, count in _batches(clips, batch_size):
        frames.append(np.asarray(pipe.reconstruct(part))[:count])
        tokens.append(np.asarray(pipe.encode(part))[:count])
    frames = np.concatenate(frames)
    result = agreement_summary(judge_many(frames, objects=objects), facts)
    control = agreement_summary(judge_many(clips, objects=objects), facts)
    del control["per_clip"], control["by_value"]
    decibels, similarity = psnr_per_video(clips, frames), ssim_per_video(clips, frames)
    for i, entry in enumerate(result["per_clip"]):
        entry |= {"psnr": float(decibels[i]), "ssim": float(similarity[i])}
    return result | {"psnr": float(decibels.mean()), "ssim": float(similarity.mean()), "control": control,
                     "codebook": codebook_use(np.concatenate(tokens), pipe.tokenizer.codebook_size), "frames": frames}


def prompt_protocol(pipe: Any, prompts: Sequence[str], facts: Sequence[Mapping], seed: int, *, num_frames: int = 11,
                    batch_size: int = 32, objects: Sequence[str] = sw.SHAPES, **sampler: Any) -> dict:
    """Which of the facts in its prompt each generated clip shows.

    Args:
      pipe: called with a list of prompts, `num_frames`, `seed` and `sampler`; its answer has uint8 `frames`.
      facts: one dict a prompt; see `attributes.agreement`.
      seed: batches draw from seeds derived from it.
      sampler: preset, guidance_scale and the like; None leaves the pipeline's own.

    Returns:
      The keys of `agreement_summary`, and "frames" uint8 [N, F, Y, X, 3].
    """
    _same_length(prompts=prompts, facts=facts)
    sampler = {name: value for name, value in sampler.items() if value is not None}
    frames = []
    for index, (part, count) in enumerate(_batches(list(prompts), batch_size)):
        answer = pipe(part, num_frames=num_frames, seed=_batch_seed(seed, index), **sampler)
        frames.append(np.asarray(answer.frames)[:count])
    frames = np.concatenate(frames)
    result = agreement_summary(judge_many(frames, objects=objects), facts)
    for entry, prompt in zip(result["per_clip"], prompts):
        entry["prompt"] = prompt
    return result | {"frames": frames}


def story_protocol(pipe: Any, stories: Sequence[Sequence[Mapping]], seed: int, *, batch_size: int = 8,
                   objects: Sequence[str] = sw.SHAPES, **sampler: Any) -> dict:
    """Tells stories and scores them with `story_scores`.

    Args:
      pipe: has `stories(list of [{"prompt", "num_frames"}, ...], seed=...)` whose answer has uint8 `frames`.
      stories: scenes as {"prompt": str, "num_frames": int, "facts": dict}.

    Returns:
      What `story_scores` returns, and "frames", a list of uint8 [F, Y, X, 3].
    """
    sampler = {name: value for name, value in sampler.items() if value is not None}
    groups: dict[tuple, list[int]] = {}
    for i, story in enumerate(stories):
        groups.setdefault(tuple(scene["num_frames"] for scene in story), []).append(i)
    frames: list = [None] * len(stories)
    index = 0
    for members in groups.values():
        for part, count in _batches(members, batch_size):
            told = [[{"prompt": s["prompt"], "num_frames": s["num_frames"]} for s in stories[i]] for i in part]
            answer = pipe.stories(told, seed=_batch_seed(seed, index), **sampler)
            for i, video in zip(part[:count], np.asarray(answer.frames)):
                frames[i] = video
            index += 1
    return story_scores(frames, stories, objects=objects) | {"frames": frames}


# ---------------------------------------------------------------------------------------------- stories

def story_scores(frames: Sequence[np.ndarray], stories: Sequence[Sequence[Mapping]], *,
                 objects: Sequence[str] = sw.SHAPES) -> dict:
    """Scores the frames of stories, generated or real (the control).

    Args:
      frames: N videos uint8 [F, Y, X, 3]; F is the sum of the scenes' frames.
      stories: N lists of scenes {"num_frames": int, "facts": dict with colour, shape, style, direction, speed,
        background as far as the prompt says or implies them}. Scenes of one frame have no motion to judge.

    Returns:
      "motion": the scenes' direction: its share over all scenes, "by_scene" (a list of shares, one a position in the
        story) and "worst" of those; "motion_and_speed": direction and speed together.
      "kept": share of the attributes (colour, shape, style, background) that the prompt takes over from the scene
        before and that the scene shows as the prompt says, with "by_attribute"; "kept_as_seen": the same against what
        the scene before really showed.
      "changed": share of the changes asked for (motion, colour, background, ...) that the scene shows.
      "seam": see `seams_of`; "vanished": share of frames without an object; "per_story".
    """
    _same_length(frames=frames, stories=stories)
    scenes = []
    for video, story in zip(frames, stories):
        ends = np.cumsum([scene["num_frames"] for scene in story])
        if len(video) != ends[-1]:
            raise UserError(f"a story has {len(video)} frames; its scenes ask for {ends[-1]}")
        scenes += np.split(np.asarray(video), ends[:-1])
    judged = iter(judge_many(scenes, objects=objects))

    motion, speed, kept, seen, changed, per_story, seams = [], [], [], [], [], [], []
    vanished = []
    for video, story in zip(frames, stories):
        attributes = [next(judged) for _ in story]
        facts = [scene["facts"] for scene in story]
        for k, (now, wanted) in enumerate(zip(attributes, facts)):
            agreed = agreement(now, wanted)
            if "motion" in agreed:
                motion.append((k, agreed["motion"]))
                speed.append(agreed["motion"] and agreed.get("speed", True))
            vanished.append(np.isnan(now.centre[:, 0]))
            if k == 0:
                continue
            before, shown_before = facts[k - 1], attributes[k - 1]
            for name in KEEPABLE:
                if wanted.get(name) is not None and before.get(name) == wanted[name]:
                    kept.append((name, agreed[name]))
                    seen.append(getattr(now, name) is not None and getattr(now, name) == getattr(shown_before, name))
                elif wanted.get(name) is not None and before.get(name) is not None:
                    changed.append((name, agreed[name]))
            if _motion(wanted) is not None and _motion(before) not in (None, _motion(wanted)) and "motion" in agreed:
                changed.append(("motion", agreed["motion"] and agreed.get("speed", True)))
        seams.append(seams_of(video, story, attributes))
        per_story.append({"shown": [_words(a) for a in attributes], "facts": [dict(f) for f in facts]} | seams[-1])

    by_scene = [share([ok for k, ok in motion if k == n])["share"] for n in sorted({k for k, _ in motion})]
    return {
        "stories": len(stories),
        "motion": share([ok for _, ok in motion]) | {"by_scene": by_scene, "worst": min(by_scene, default=None)},
        "motion_and_speed": share(speed),
        "kept": _by_attribute(kept),
        "kept_as_seen": share(seen),
        "changed": _by_attribute(changed),
        "seam": {kind: pooled([s[kind] for s in seams]) for kind in ("pixels", "displacement")},
        "vanished": float(np.mean(np.concatenate(vanished))) if vanished else None,
        "per_story": per_story,
    }


def seams_of(video: np.ndarray, story: Sequence[Mapping], attributes: Sequence[Attributes]) -> dict:
    """The largest change between consecutive frames at the seams and inside the scenes of one story.

    "pixels": mean absolute difference of two frames, 0 to 255, at those seams where the prompt changes nothing but the
    motion (a new colour or background is meant to change pixels). "displacement": how far the centre moves, in pixels
    of a 32 x 32 frame, at all seams.
    """
    starts = np.cumsum([scene["num_frames"] for scene in story])[:-1]
    at_seam = np.isin(np.arange(1, len(video)), starts)
    smooth = {int(start) for start, before, now in zip(starts, story, story[1:])
              if all(before["facts"].get(name) == now["facts"].get(name) for name in KEEPABLE)}
    comparable = np.isin(np.arange(1, len(video)), list(smooth))
    pixels = np.array([np.mean(np.abs(b.astype(np.int16) - a)) for a, b in zip(video, video[1:])])
    centre = np.concatenate([a.centre for a in attributes])
    moved = np.linalg.norm(np.diff(centre, axis=0), axis=1)

    def largest(values, where):
        values = values[where & ~np.isnan(values)]
        return float(values.max()) if len(values) else None

    return {"pixels": {"at_seams": largest(pixels, comparable), "inside": largest(pixels, ~at_seam)},
            "displacement": {"at_seams": largest(moved, at_seam), "inside": largest(moved, ~at_seam)}}


def pooled(measures: Sequence[Mapping]) -> dict:
    """Largest at any seam over largest inside any scene ("ratio"), and the distribution of each story's own ratio."""
    measures = [m for m in measures if m["at_seams"] is not None and m["inside"] is not None]
    if not measures:
        return {"stories": 0, "ratio": None}
    at_seams, inside = (np.array([m[key] for m in measures]) for key in ("at_seams", "inside"))
    own = at_seams / np.maximum(inside, 1e-6)
    return {"stories": len(measures), "at_seams": float(at_seams.max()), "inside": float(inside.max()),
            "ratio": float(at_seams.max() / max(inside.max(), 1e-6)), "median_story": float(np.median(own)),
            "worst_story": float(own.max()), "stories_at_most_1.5": float(np.mean(own <= 1.5))}


def _motion(facts: Mapping) -> tuple | None:
    return None if facts.get("direction") is None else (facts["direction"], facts.get("speed"))


# ---------------------------------------------------------------------------------------------- counting

def agreement_summary(attributes: Sequence[Attributes], facts: Sequence[Mapping]) -> dict:
    """How often clips show their facts.

    Returns:
      "clips": N; "agreement" {attribute: share}; "count" {attribute: clips asked}; "interval" {attribute: [low, high]};
      "all": share of clips that show everything asked; "by_value" {attribute: {value asked for: share}};
      "per_clip": [{"facts", "shown", "agrees"}].
    """
    agrees = [agreement(a, f) for a, f in zip(attributes, facts)]
    asked = [name for name in ATTRIBUTES if any(name in row for row in agrees)]
    shares = {name: share([row[name] for row in agrees if name in row]) for name in asked}
    by_value: dict[str, dict] = {}
    for name in asked:
        key = "direction" if name == "motion" else name
        rows = [(f[key], row[name]) for f, row in zip(facts, agrees) if name in row]
        by_value[name] = {value: share([ok for v, ok in rows if v == value])["share"]
                          for value in sorted({v for v, _ in rows})}
    return {
        "clips": len(attributes),
        "agreement": {name: s["share"] for name, s in shares.items()},
        "count": {name: s["of"] for name, s in shares.items()},
        "interval": {name: s["interval"] for name, s in shares.items()},
        "all": share([all(row.values()) for row in agrees])["share"],
        "by_value": by_value,
        "per_clip": [{"facts": dict(f), "shown": _words(a), "agrees": row}
                     for f, a, row in zip(facts, attributes, agrees)],
    }


def codebook_use(tokens: np.ndarray, size: int) -> dict:
    """How evenly tokens use a codebook.

    Returns:
      "size"; "tokens", how many were counted; "used", distinct codes; "usage" = used / size; "perplexity",
      exp(entropy) of the codes' frequencies, 1 to size.
    """
    tokens = np.asarray(tokens).ravel()
    if tokens.size == 0 or tokens.min() < 0 or tokens.max() >= size:
        raise UserError(f"tokens must be non-empty and lie in 0..{size - 1}, the codebook's size being {size}")
    counts = np.bincount(tokens, minlength=size)
    frequency = counts[counts > 0] / tokens.size
    return {"size": int(size), "tokens": int(tokens.size), "used": int(len(frequency)),
            "usage": float(len(frequency) / size), "perplexity": float(np.exp(-np.sum(frequency * np.log(frequency))))}


def share(outcomes: Sequence[bool]) -> dict:
    """{"share", "of", "interval"} of outcomes; the 95 % interval is Wilson's. None where nothing was counted."""
    n = len(outcomes)
    if n == 0:
        return {"share": None, "of": 0, "interval": None}
    p, z = float(np.mean(outcomes)), 1.959964
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return {"share": p, "of": n, "interval": [float(max(0.0, centre - half)), float(min(1.0, centre + half))]}


def _by_attribute(outcomes: Sequence[tuple[str, bool]]) -> dict:
    names = list(dict.fromkeys(name for name, _ in outcomes))
    return share([ok for _, ok in outcomes]) | {
        "by_attribute": {name: share([ok for n, ok in outcomes if n == name])["share"] for name in names}}


def _words(attributes: Attributes) -> dict:
    """The names and numbers of `Attributes` without the track."""
    values = dataclasses.asdict(attributes)
    del values["centre"]
    return values | {"velocity": [round(float(v), 3) for v in attributes.velocity]}


# ---------------------------------------------------------------------------------------------- batches

def _batches(items: Any, size: int):
    """Yields (batch, count) of equal size, so that one compiled program serves all; the last repeats its last item."""
    size = min(size, len(items))
    for start in range(0, len(items), size):
        part = items[start:start + size]
        count = len(part)
        if count < size:
            if isinstance(part, np.ndarray):
                part = np.concatenate([part, np.repeat(part[-1:], size - count, axis=0)])
            else:
                part = list(part) + [part[-1]] * (size - count)
        yield part, count


def _batch_seed(seed: int, index: int) -> int:
    return int(np.random.SeedSequence([seed, index]).generate_state(1)[0] >> 1)


def _same_length(**named: Any) -> None:
    lengths = {name: len(value) for name, value in named.items()}
    if len(set(lengths.values())) != 1 or 0 in lengths.values():
        raise UserError(f"{' and '.join(f'{n} {name}' for name, n in lengths.items())}: they must be as many, and some")
