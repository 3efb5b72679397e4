"""The one error of the channel builder: what happened, and what to do about it."""

from __future__ import annotations


class ChannelError(Exception):
    """The channel cannot be built.

    Attributes:
        message: one sentence that says what happened.
        hint: one sentence that says what to do about it; may be empty.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class NotRelocatableError(ChannelError):
    """This CPython cannot be moved into a conda prefix."""

    def __init__(self, message: str) -> None:
        super().__init__(
            message,
            "Name a CPython that lives in a directory of its own with --python: one of pyenv, of `uv python install`, "
            "of actions/setup-python, or of the official Docker image.",
        )
