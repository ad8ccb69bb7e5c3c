"""Our side of a benchmark: `python -m phenaki_jax.benchmark SUBJECT`; see `side.serve`."""

import sys

from phenaki_jax.benchmark import SUBJECTS, side

side.serve(SUBJECTS[sys.argv[1]].make)
