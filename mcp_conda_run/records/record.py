"""What is kept of a run: all that it takes to have it again, and to see whether it came out the same.

Made by `writing.py`, kept by `shelf.py`, used by `replay.py` and `export.py`. A record file may come from anywhere, so
what is read is checked here. Holds no output, value, or figure, only their digests, and no credentials of channels.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ..errors import RequestError
from ..models import Json, LockedPackage, PlannedPackage, Value

MAX_RECORD_BYTES = 32 * 1024 * 1024
ADDRESS = re.compile(r"\bat 0x[0-9a-fA-F]+")
"""Where an object lies in memory, as default representations tell it: never the same twice."""

Digest = Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")]
Word = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.+!-]{0,100}$")]
Line = Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f]*$")]
"""What ends up in comments of exported files: nothing that could end the line."""


class Part(BaseModel):
    """What the parts of a record share: unknown fields are those of later versions."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Code(Part):
    """What ran.

    Attributes:
        text: the source; None if only its digest was kept.
        sha256: its digest.
        mount: for a file, the mount it lay in, as the run saw it; else empty.
        relative: for a file, its path below the mount.
    """

    text: str | None = None
    sha256: Digest = ""
    mount: str = ""
    relative: str = ""


class Given(Part):
    """What the code was given.

    Attributes:
        args: its arguments; None if they were not kept.
        variables: its global variables, without those that were withheld.
        withheld: the names of those whose value was not kept.
    """

    args: tuple[str, ...] | None = ()
    variables: Mapping[str, Json] = {}
    withheld: tuple[Line, ...] = ()


class InputFile(Part):
    """A file below a mount that was there before the run and stayed as it was.

    Attributes:
        path: as the run saw it.
        size_bytes: how long it is.
        sha256: its digest.
    """

    path: str
    size_bytes: int
    sha256: Digest


class Inputs(Part):
    """The files that the run could read; `complete` says whether these are all."""

    files: tuple[InputFile, ...] = ()
    complete: bool = True


class Place(Part):
    """Where and under what the code ran.

    Attributes:
        version: of mcp-conda-run.
        platform: conda's name of it, such as `linux-64`.
        python: the environment's Python, such as `3.12.1`.
        template: its name.
        specs: what it asks for.
        channels: in the order of their priority.
        environment: its key.
        beside: what the environment had that is not among the packages: what pip had put into one of the user's.
        engine: what installed.
        tier: which isolation held.
        network: the policy that held.
        limits: the bounds, by the names of the settings, with `timeout_s`.
        settings: other settings that can change what comes out.
        path: the host's directory that was the working directory; not in what is exported.
    """

    version: Word = ""
    platform: Word = ""
    python: Word = ""
    template: Line = ""
    specs: tuple[Line, ...] = ()
    channels: tuple[Line, ...] = ()
    environment: str = ""
    beside: tuple[Line, ...] = ()
    engine: str = ""
    tier: str = ""
    network: str = ""
    limits: Mapping[str, float] = {}
    settings: Mapping[str, Json] = {}
    path: str = ""


class Outcome(Part):
    """How it came out.

    Attributes:
        status, exit_code, limit, error: as in the result; of the error only its type.
        value: the digest of the value (`value_digest`); empty if there was none.
        value_type: its class.
        output: the digest of all that it printed.
        files: what it made or changed below the mounts.
        attempts: how often the code ran.
    """

    status: str
    exit_code: int | None = None
    limit: str = ""
    error: str = ""
    value: Digest = ""
    value_type: str = ""
    output: Digest = ""
    files: tuple[str, ...] = ()
    attempts: int = 1


class RunRecord(Part):
    """A run.

    Attributes:
        run_id: as the result said.
        at: when it began.
        took_ms: how long it took, from the request to the result.
        requested: match specs that the request asked for.
        plan: what was added to the template, and why.
        packages: all packages of its environment, of conda and of PyPI.
    """

    format: Literal[1] = 1
    run_id: Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
    at: datetime
    took_ms: float = 0
    code: Code
    given: Given
    requested: tuple[str, ...] = ()
    plan: tuple[PlannedPackage, ...] = ()
    packages: tuple[LockedPackage, ...] = ()
    place: Place
    inputs: Inputs = Inputs()
    outcome: Outcome

    def document(self) -> str:
        """Return the record as a file that can be given away: without directories of this host."""
        place = self.place.model_copy(update={"path": ""})
        return self.model_copy(update={"place": place}).model_dump_json(indent=1) + "\n"


def beside_packages(record: RunRecord) -> str:
    """Say what the environment had that no record of its packages brings back; nothing if that is all of it."""
    if not record.place.beside:
        return ""
    return (
        f"The environment was the user's own, and had besides what pip had put there: {', '.join(record.place.beside)}."
    )


def value_digest(value: Value | None) -> str:
    """Return the digest of a value, by its JSON form if it has one, else by its text without memory addresses."""
    if value is None:
        return ""
    kept = json.dumps(value.json, sort_keys=True) if value.is_json else ADDRESS.sub("at 0x", value.text)
    return hashlib.sha256(f"{value.type}\n{kept}".encode("utf-8", "surrogatepass")).hexdigest()


def text_digest(text: str) -> str:
    """Return the digest of code or output."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def read_record(path: Path) -> RunRecord:
    """Read a record that was exported.

    Raises:
        RequestError: the file cannot be read, or is no record.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_RECORD_BYTES + 1)
    except OSError as error:
        raise RequestError(f"The record {path} cannot be read: {error.strerror}.", code="bad-record") from None
    if len(data) > MAX_RECORD_BYTES:
        raise bad_record(path, f"it is longer than {MAX_RECORD_BYTES} bytes")
    return parse_record(data, path)


def parse_record(data: bytes, path: Path, packages: Any = None) -> RunRecord:
    """Read a record's JSON; `packages` is its list of packages where that is kept elsewhere.

    Raises:
        RequestError: it is none.
    """
    try:
        document = json.loads(data)
        if packages is not None:
            document["packages"] = packages
        record = RunRecord.model_validate(document)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise bad_record(path, f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    except (ValueError, TypeError, RecursionError) as error:
        raise bad_record(path, str(error)[:200]) from None
    if record.code.text is not None and text_digest(record.code.text) != record.code.sha256:
        raise bad_record(path, "its code is not that of its digest")
    return record


def bad_record(path: Path, why: str) -> RequestError:
    """Make the error for a file that is no record."""
    return RequestError(
        f"{path} is not the record of a run: {why}.",
        hint="`mcp-conda-run export RUN_ID --format record -o FILE` writes one.",
        code="bad-record",
    )
