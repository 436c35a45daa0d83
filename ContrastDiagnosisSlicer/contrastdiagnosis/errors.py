"""The error that a user can mend."""


class InputError(ValueError):
    """What the user gave cannot be used; the message says what was wanted and what came.

    Front ends (command line, server, panel) show the message alone, without a traceback.
    """
