"""The one error that is the user's to mend, and the commonest of its reasons."""

from typing import Any

import numpy as np


class UserError(ValueError):
    """A mistake in what the user gave: one sentence that names the field, the value and what would be right.

    The command line prints it and exits with code 2; a traceback is a defect of ours.
    """


class DataError(RuntimeError):
    """What a run is fed with does not come, or too much of it is damaged: one sentence that names what and where.

    No mistake of the user's: a run saves what it has and ends with exit code 1.
    """


def at_least(name: str, value: Any, least: int) -> None:
    """Raises: UserError where a value is no whole number, or a smaller one."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
        raise UserError(f"{name}={value!r} must be a whole number of at least {least}")
