"""seqio's last step: what the tasks give as rows of one form, for those who read them without our loader."""

from collections.abc import Mapping

import seqio
import tensorflow as tf

from phenaki_jax.errors import UserError
from phenaki_jax.input.schema import STREAMS


class StreamConverter(seqio.FeatureConverter):
    """Rows of one stream of a task or a mixture, each as a row of `schema.Stream` of the loader.

    Captions are padded with 0 to task_feature_lengths["text"], clips have task_feature_lengths["video"] frames and
    images one, and whatever else a task gives (such as a `_pretokenized` copy) is dropped. Rows of the other stream
    are left out: a batch of both has no one shape. Nothing is packed.

    Args:
      stream: "video" or "image".
    """

    def __init__(self, stream: str):
        if stream not in STREAMS:
            raise UserError(f"stream={stream!r} is unknown; it is one of {', '.join(STREAMS)}")
        self._stream = stream

    def __call__(self, ds: tf.data.Dataset, task_feature_lengths: Mapping[str, int]) -> tf.data.Dataset:
        """Its validation is not seqio's own, which wants a length for each of a feature's dimensions."""
        return self._convert_features(ds, task_feature_lengths)

    def get_model_feature_lengths(self, task_feature_lengths: Mapping[str, int]) -> dict[str, int]:
        frames = task_feature_lengths["video"] if self._stream == "video" else 1
        return {"video": frames, "text": task_feature_lengths["text"]}

    def _convert_features(self, ds: tf.data.Dataset, task_feature_lengths: Mapping[str, int]) -> tf.data.Dataset:
        lengths = self.get_model_feature_lengths(task_feature_lengths)

        def row(example):
            video, text = example["video"], example["text"]
            text = tf.pad(text, [[0, lengths["text"] - tf.shape(text)[0]]])
            return {"video": tf.ensure_shape(video, (lengths["video"], None, None, 3)),
                    "text": tf.ensure_shape(text, (lengths["text"],)),
                    "known_frames": example["known_frames"], "fps": example["fps"]}

        ours = ds.filter(lambda example: tf.equal(tf.shape(example["video"])[0], lengths["video"]))
        return ours.map(row, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
