"""The seqio tasks of `sprite_stories`: sprite_KIND_WORLD, one for each config of its builder."""

import functools

import seqio

from data.sprite_stories.sprite_stories_dataset_builder import SpriteStories
from phenaki_jax.input import preprocess
from phenaki_jax.input.seqio_source import CUT, FEATURES, TOKENIZED, NumpyStep, RandomAccessSource, number_records

CUTS = {"clips": preprocess.cut_clip, "paced": preprocess.cut_clip, "stories": preprocess.cut_story,
        "images": preprocess.cut_image}


def _add(name: str, config, stream: str, cut) -> None:
    seqio.TaskRegistry.add(
        name,
        source=RandomAccessSource(f"sprite_stories/{config.name}", functools.partial(SpriteStories, config=config.name),
                                  stream=stream),
        preprocessors=[number_records, NumpyStep(cut, CUT), NumpyStep(preprocess.tokenize, TOKENIZED)],
        output_features=FEATURES,
        shuffle_buffer_size=None,  # the source shuffles whole epochs
    )


for config in SpriteStories.BUILDER_CONFIGS:
    _add(f"sprite_{config.name}", config, "image" if config.kind == "images" else "video", CUTS[config.kind])
    if config.kind == "images":  # the same images, sliding: clips for a tokenizer
        _add(f"sprite_{config.name.replace('images', 'sliding')}", config, "video", preprocess.slide_image)
