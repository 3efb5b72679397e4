"""What every client script does: the same calls on each target, answered as JSON on the last line of standard output.

A script is started as `python SCRIPT TARGETS`; TARGETS is JSON, of names and the fields of `Target`. Runs in the
client's own environment: no import of the project.
"""

import asyncio
import json
import sys
import traceback
from dataclasses import dataclass, field

PNG = """
import struct, zlib
def chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
class Dot:
    def _repr_png_(self):
        header = chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0))
        return b"\\x89PNG\\r\\n\\x1a\\n" + header + chunk(b"IDAT", zlib.compress(bytes(4))) + chunk(b"IEND", b"")
Dot()
"""
CALLS = {
    "value": {"python_code": "import numpy\nprint('printed')\nint(numpy.arange(5).sum())"},
    "failure": {"python_code": "1 / 0"},
    "image": {"python_code": PNG},
    "refused": {"python_code": "1", "timeout": 5},
}
TOOL = "run_python_code"
PATIENCE_S = 100


@dataclass
class Target:
    """Where the server is: a command with its variables (stdio), or a URL."""

    transport: str
    command: str = ""
    args: list = field(default_factory=list)
    env: dict = field(default_factory=dict)
    url: str = ""
    mode: str = ""


def answer(text: str, *, images: int = 0, error: bool = False) -> dict:
    return {"text": text, "images": images, "error": error}


def report(tools: list, answers: dict, **more: object) -> dict:
    return {"tools": sorted(tools), "answers": answers, **more}


def main(converse) -> None:
    """Let `converse(target)` make the calls on each target; say what came of it, or how it failed."""
    reports = {}
    for name, said in json.loads(sys.argv[1]).items():
        try:
            reports[name] = asyncio.run(converse(Target(**said)))
        except BaseException:  # noqa: BLE001 - whatever it is, it is the report
            reports[name] = {"failed": traceback.format_exc()}
    sys.stdout.write(json.dumps(reports) + "\n")
