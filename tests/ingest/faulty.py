"""A loader that fails, light enough for processes to start with."""

import os
import signal
import time

import numpy as np

from phenaki_jax.errors import UserError


class Faulty:
    """Batches of their number alone; at a step it stalls, dies or raises, once or always."""

    nbytes, seconds = 1024, 600

    def __init__(self, folder, step, how, once):
        self.folder, self.step, self.how, self.once, self.bad = folder, step, how, once, self

    def taken(self):
        return None

    def merge(self, other):
        assert other is None

    def batch(self, step, watch=lambda text: None):
        watch(f"record {step} in /mount/shard-{step:03}")
        mark = self.folder / f"{step}.seen"
        if step == self.step and not (self.once and mark.exists()):
            mark.touch()
            if self.how == "stalls":
                time.sleep(self.seconds)
            if self.how == "dies":
                os.kill(os.getpid(), signal.SIGKILL)
            raise UserError("wrong")
        return {"video": {"text": np.full(3, step)}}
