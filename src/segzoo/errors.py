"""The errors a person can cause: each is one sentence that says what is wrong, where, and what to do."""


class SegzooError(ValueError):
    """Bad input to segzoo. The command line prints its message alone, without a traceback."""


class MissingError(SegzooError, FileNotFoundError):
    """A file, folder, checkpoint or model that is not there."""

    def __str__(self) -> str:
        """The message alone (OSError would add an errno)."""
        return str(self.args[0]) if self.args else ""
