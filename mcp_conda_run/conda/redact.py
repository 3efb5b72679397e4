"""Keeps credentials out of everything that is shown, logged or stored for show.

Channel URLs may carry them in two places: `https://user:password@host/...` and `https://host/t/<token>/...`
(Anaconda's token URLs). Used by the engines, the locks and the channel index on every text that leaves them.
"""

from __future__ import annotations

import re

USER_INFO = re.compile(r"(?<=://)[^/\s]*@")
TOKEN = re.compile(r"/t/[^/\s]+(?=/|\s|$)")


def redact(text: str) -> str:
    """Return the text without the credentials of any URL in it."""
    return TOKEN.sub("/t/***", USER_INFO.sub("", text))
