"""The one error that is the user's to mend."""


class UserError(ValueError):
    """A mistake in what the user gave: one sentence that names the field, the value and what would be right.

    The command line prints it and exits with code 2; a traceback is a defect of ours.
    """
