"""The error that a user can mend."""


class InputError(ValueError):
    """What the user gave cannot be used; the message says what was wanted and what came.

    Front ends (command line, server, panel) show the message alone, without a traceback: it names
    nothing that only one of them has, such as an option.

    Attributes:
        setting: Field of the command that mends it, where there is one; the command line names it.
    """

    def __init__(self, message: str, setting: str = "") -> None:
        super().__init__(message)
        self.setting = setting
