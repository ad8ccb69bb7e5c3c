"""The seqio tasks of `real_clips`: real_KIND_SIZE, one for each config of its builder."""

import functools

import seqio

from data.real_clips.real_clips_dataset_builder import RealClips
from phenaki_jax.input import preprocess
from phenaki_jax.input.seqio_source import CUT, FEATURES, TOKENIZED, NumpyStep, RandomAccessSource, number_records

CUTS = {"clips": ("video", preprocess.cut_clip), "images": ("image", preprocess.cut_image)}

for config in RealClips.BUILDER_CONFIGS:
    stream, cut = CUTS[config.kind]
    seqio.TaskRegistry.add(
        f"real_{config.name}",
        source=RandomAccessSource(f"real_clips/{config.name}", functools.partial(RealClips, config=config.name),
                                  stream=stream),
        preprocessors=[number_records, NumpyStep(cut, CUT), NumpyStep(preprocess.tokenize, TOKENIZED)],
        output_features=FEATURES,
        shuffle_buffer_size=None,  # the source shuffles whole epochs
    )
