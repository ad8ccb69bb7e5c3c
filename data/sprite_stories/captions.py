"""Captions of the sprite world: several phrasings of the same facts, some of which leave facts out."""

import numpy as np

from data.sprite_stories.world import Facts
from phenaki_jax.evaluation import sprite_world as sw

LEFT_OUT = 0.1  # how often each of style, speed and background is not named
LONGEST = 95  # bytes, so that a caption and its end fit 96 ids

TOWARDS = {"left": "to the left", "right": "to the right", "up": "upwards", "down": "downwards"}

# {object}: article, style, colour, shape. {way}: left; {towards}: to the left. {speed} brings its leading space,
# {on} is " on black", {ground} is " on a black background", {first} is "on a black background, ".
MOVING = (
    "{object} moves {way}{speed}{on}",
    "{first}{object} is moving{speed} {towards}",
    "{object} moving {way}{speed}{ground}",
    "{object} is{speed} moving {way}{on}",
    "{first}{object} moves{speed} {towards}",
    "a video of {object} moving {towards}{speed}{on}",
    "{object} goes {way}{speed}{ground}",
    "there is {object} that moves{speed} {towards}{on}",
)
RESTING = (
    "{object} stays still{on}",
    "{first}{object} is staying still",
    "{object} staying still{ground}",
    "{object} is standing still{on}",
    "{first}{object} does not move",
    "a video of {object} standing still{on}",
    "{object} rests{ground}",
    "there is {object} that stays still{on}",
)
IMAGES = (
    "{object}{on}",
    "{first}{object}",
    "a picture of {object}{ground}",
    "an image of {object}{on}",
    "{object}{ground}",
    "there is {object}{on}",
)


def caption(rng: np.random.Generator, facts: Facts, image: bool = False, complete: bool = False,
            unnamed: tuple[str, ...] = ()) -> tuple[str, dict[str, str]]:
    """A sentence that is true of a scene, and the facts that it names.

    Args:
      image: whether it captions a single frame, of which no motion is told.
      complete: name every fact; otherwise style, speed and background are each left out of one caption in ten.
      unnamed: which of these three are not named in any case.

    Returns:
      The sentence, at most 95 bytes, and {field of Facts: value}. `speed` is absent for an object that stays still.
    """
    keep = {name: complete or bool(rng.random() >= LEFT_OUT) for name in ("style", "speed", "background")}
    keep |= dict.fromkeys(unnamed, False)
    forms = IMAGES if image else RESTING if facts.speed is None else MOVING
    form = forms[int(rng.integers(len(forms)))]
    named = {"colour": facts.colour, "shape": facts.shape}
    noun = f"digit {facts.shape}" if facts.shape in sw.DIGITS else facts.shape
    words = [facts.colour, noun]
    if keep["style"]:
        words.insert(0, facts.style)
        named["style"] = facts.style
    if keep["background"]:
        named["background"] = facts.background
    if not image:
        named["direction"] = facts.direction
        if facts.speed is not None and keep["speed"]:
            named["speed"] = facts.speed
    ground = facts.background if keep["background"] else None
    text = form.format(
        object=" ".join(("an" if words[0][0] in "aeiou" else "a", *words)), way=facts.direction,
        towards=TOWARDS.get(facts.direction, ""), speed=f" {named['speed']}" if "speed" in named else "",
        on=f" on {ground}" if ground else "", ground=f" on a {ground} background" if ground else "",
        first=f"on a {ground} background, " if ground else "")
    assert len(text.encode()) <= LONGEST, text
    return text, named
