"""The one exception that stands for a user's mistake.

Everything that a user can put right (a bad row, a typo in a flag, a folder that is not a model) raises this or a
subclass with a message that says what was found, where, and what to do. The command line prints the message in one
line and exits with 2; anything else is a bug of ours and keeps its traceback.
"""


class UserError(ValueError):
    """A mistake in what the user gave: data, flags, paths or files."""
