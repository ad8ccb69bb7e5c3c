"""The seqio tasks of `sprite_stories`: sprite_KIND_WORLD, one for each config of its builder."""

import functools

import seqio

from data.sprite_stories.sprite_stories_dataset_builder import SpriteStories
from phenaki_jax.input import preprocess
from phenaki_jax.input.seqio_source import CUT, FEATURES, TOKENIZED, NumpyStep, RandomAccessSource, number_records

CUTS = {"clips": preprocess.cut_clip, "stories": preprocess.cut_story, "images": preprocess.cut_image}

for config in SpriteStories.BUILDER_CONFIGS:
    seqio.TaskRegistry.add(
        f"sprite_{config.name}",
        source=RandomAccessSource(f"sprite_stories/{config.name}", functools.partial(SpriteStories, config=config.name),
                                  stream="image" if config.kind == "images" else "video"),
        preprocessors=[number_records, NumpyStep(CUTS[config.kind], CUT), NumpyStep(preprocess.tokenize, TOKENIZED)],
        output_features=FEATURES,
        shuffle_buffer_size=None,  # the source shuffles whole epochs
    )
