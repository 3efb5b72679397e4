"""Loads YAML that somebody else wrote: bounded in size and depth, and only plain values.

Used for environment.yml and conda-lock.yml. PyYAML's C loader is five times faster than the Python one, but composes
nested nodes recursively in C and crashes the process on some 50,000 brackets: the depth is checked first, on events.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

MAX_DEPTH = 32
LOADER: type[Any] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class UnusableYaml(ValueError):  # noqa: N818 - a reason, turned into one of the project's errors by the caller
    """Why the file cannot be loaded, as the end of a sentence."""


def load_file(path: Path, max_bytes: int) -> Any:
    """Load a YAML file of at most `max_bytes`.

    Raises:
        UnusableYaml: it cannot be read, is too large or nested too deeply, or is not YAML.
    """
    return load_text(read_text(path, max_bytes))


def read_text(path: Path, max_bytes: int) -> str:
    """Read a text file of at most `max_bytes`.

    Raises:
        UnusableYaml: it cannot be read, is no regular file, is too large, or is not UTF-8.
    """
    try:
        if not path.is_file():
            raise UnusableYaml("it is not there" if not path.exists() else "it is not a file")
        with path.open("rb") as file:
            data = file.read(max_bytes + 1)
        text = data.decode()
    except OSError as error:
        raise UnusableYaml(error.strerror or str(error)) from error
    except UnicodeDecodeError:
        raise UnusableYaml("it is not UTF-8 text") from None
    if len(data) > max_bytes:
        raise UnusableYaml(f"it is larger than {max_bytes // 1024} KiB")
    return text


def load_text(text: str) -> Any:
    """Load YAML text.

    Raises:
        UnusableYaml: it is nested too deeply or is not YAML.
    """
    try:
        check_depth(text)
        return yaml.load(text, Loader=LOADER)  # noqa: S506 - a safe loader
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 1}" if mark else ""
        raise UnusableYaml(f"it is not YAML: {getattr(error, 'problem', None) or error}{where}") from None
    except (ValueError, TypeError, RecursionError) as error:  # such as a date that does not exist, an unhashable key
        raise UnusableYaml(f"it is not YAML that can be used: {error}") from None


def check_depth(text: str) -> None:
    """Refuse text that is nested deeper than any honest file."""
    depth = 0
    for event in yaml.parse(text, Loader=LOADER):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > MAX_DEPTH:
            raise UnusableYaml("it is nested too deeply")
