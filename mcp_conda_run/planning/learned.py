"""What this machine learned: which package brought a module, and which did not.

Written after installs from the environment's own files, read by the resolver. A file of ours in the cache directory,
bounded; one that is damaged is the same as none.
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from ..models import Environment, PlannedPackage

log = logging.getLogger(__name__)

MAX_PAIRS = 5000


class Learned:
    """Pairs of import and package; `path` None keeps them in memory only."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._good: dict[str, str] = {}
        self._bad: dict[str, list[str]] = {}
        if path is not None:
            self._good, self._bad = read_pairs(path)

    def package(self, module: str) -> str:
        """Return the package that was seen to bring this module or a parent of it; empty if none was."""
        parts = module.split(".")[:8]
        for length in range(len(parts), 0, -1):
            if package := self._good.get(".".join(parts[:length])):
                return package
        return ""

    def refuted(self, module: str) -> frozenset[str]:
        """Return the packages that were installed for this module and did not bring it."""
        return frozenset(self._bad.get(module, ()))

    def confirm(self, packages: Iterable[PlannedPackage], environment: Environment) -> tuple[PlannedPackage, ...]:
        """Compare a plan with the environment made from it; remember both outcomes and return the packages that failed.

        A package failed if it was chosen for an import that the environment still does not offer.
        """
        failed = []
        changed = False
        for package in packages:
            module = package.import_name
            if not module or package.manager != "conda":
                continue
            if not environment.offers(module):
                failed.append(package)
                bad = self._bad.setdefault(module, [])
                changed |= package.name not in bad
                bad += [] if package.name in bad else [package.name]
        changed |= self._learn_owners(environment, [p.name for p in packages if p.decision == "requested"])
        if changed:
            self._save()
        return tuple(failed)

    def _learn_owners(self, environment: Environment, requested: Sequence[str]) -> bool:
        """Remember the modules of packages that were asked for by name: the next run can plan them by import."""
        changed = False
        for module, owner in environment.modules.items():
            if owner in requested and self._good.get(module) != owner:
                self._good[module] = owner
                changed = True
        return changed

    def _save(self) -> None:
        if self._path is None:
            return
        self._good = dict(list(self._good.items())[-MAX_PAIRS:])
        self._bad = dict(list(self._bad.items())[-MAX_PAIRS:])
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            descriptor, name = tempfile.mkstemp(dir=self._path.parent, prefix=f".{self._path.name}-")
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                json.dump({"good": self._good, "bad": self._bad}, file)
            Path(name).replace(self._path)
        except OSError as error:
            log.warning("Cannot remember what was learned in %s: %s", self._path, error)


def read_pairs(path: Path) -> tuple[dict[str, str], dict[str, list[str]]]:
    """Read the file; one that is absent or damaged holds nothing."""
    with suppress(OSError, ValueError, TypeError, KeyError, AttributeError):
        document = json.loads(path.read_bytes())
        good = {str(key): str(value) for key, value in document["good"].items()}
        bad = {str(key): [str(name) for name in value] for key, value in document["bad"].items()}
        return good, bad
    return {}, {}
