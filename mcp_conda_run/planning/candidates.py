"""What somebody may have meant by an import that nothing is known of: near names, ranked, never installed.

Called by the planner for unknown imports only. Compares with the channel's names and with the imports of our table.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from difflib import SequenceMatcher
from functools import lru_cache

from ..models import Candidate, PackageFacts
from .tables import Tables, spelled

MAX_MODULES = 20
MAX_CANDIDATES = 5
CLOSE = 0.75
LOOKALIKES = str.maketrans(
    "аеорсухіјѕԁԛԝһкмтвнпзլοαρτυνικеɡոօ01",  # noqa: RUF001 - these are the letters that deceive
    "aeopcyxijsdqwhkmtbhnzloaptuvikegnool",
)


def skeleton(name: str) -> str:
    """Return a name as it looks: letters of other alphabets become the Latin ones that they look like."""
    plain = unicodedata.normalize("NFKD", name).casefold().translate(LOOKALIKES)
    return "".join(letter for letter in plain if letter.isascii() and (letter.isalnum() or letter in "_.-"))


@lru_cache(maxsize=2)
def letter_sets(names: frozenset[str]) -> tuple[tuple[str, int], ...]:
    """Return each name with the set of its letters as bits, for a first sieve."""
    return tuple((name, letters(name)) for name in sorted(names))


def letters(name: str) -> int:
    """Return the set of a name's letters as bits."""
    bits = 0
    for letter in name:
        bits |= 1 << (ord(letter) & 63)
    return bits


def near(module: str, names: frozenset[str]) -> dict[str, float]:
    """Return the names that are like a module's root, with their likeness from 0 to 1."""
    wanted = skeleton(module.partition(".")[0]).replace("_", "-")
    if len(wanted) < 3:  # noqa: PLR2004 - everything is like a name of two letters
        return {}
    bits = letters(wanted)
    found: dict[str, float] = {}
    for name, have in letter_sets(names):
        if abs(len(name) - len(wanted)) <= 2 and (bits ^ have).bit_count() <= 3:  # noqa: PLR2004 - two typing errors
            ratio = SequenceMatcher(None, wanted, name).ratio()
            if ratio >= CLOSE:
                found[name] = ratio
        elif wanted in name.split("-"):
            found[name] = CLOSE * 0.9
    return found


def propose(modules: Iterable[str], names: frozenset[str], tables: Tables) -> dict[str, dict[str, tuple[float, str]]]:
    """Return packages with likeness and reason for each module; whether they are Python packages is not asked yet."""
    known = {spelled(key): key for key in tables.imports if "." not in key}
    imports = frozenset(known)
    result: dict[str, dict[str, tuple[float, str]]] = {}
    for module in list(modules)[:MAX_MODULES]:
        found = {name: (ratio, "a package with a like name") for name, ratio in near(module, names).items()}
        for key, ratio in near(module, imports).items():
            for package in tables.imports[known[key]].conda[:1]:
                found[package] = max(found.get(package, (0.0, "")), (ratio, f"it brings the import {key}"))
        best = sorted(found.items(), key=lambda item: (-item[1][0], item[0]))
        result[module] = dict(best[: 3 * MAX_CANDIDATES])
    return result


def rank(found: Mapping[str, tuple[float, str]], facts: Mapping[str, PackageFacts]) -> tuple[Candidate, ...]:
    """Return the best of the proposed packages that the channel has as Python packages."""
    kept: Sequence[Candidate] = [
        Candidate(name, facts[name].channel, round(score, 2), reason)
        for name, (score, reason) in found.items()
        if name in facts and facts[name].is_python
    ]
    return tuple(kept[:MAX_CANDIDATES])
