"""The vocabulary of all the rooms: plain, immutable, serializable data.

A request goes in (`RunRequest`), becomes a `Plan`, then `LockedPackage`s, an `Environment`, and ends as a `RunResult`.
No behaviour beyond small conveniences, no imports from the rooms. The rooms import the names from here; the modules
below are one a step of that way.
"""

from .environment import Environment, LockedPackage, PackageFacts
from .plan import Ask, Candidate, FoundImport, ImportContext, Plan, PlannedPackage, UnknownImport
from .progress import Progress, ProgressCallback, no_progress
from .request import Json, Mount, RunRequest
from .result import (
    AddedPackage,
    ChangedFile,
    Figure,
    Isolation,
    Limits,
    Representation,
    RunError,
    RunResult,
    Status,
    Value,
)

__all__ = [
    "AddedPackage",
    "Ask",
    "Candidate",
    "ChangedFile",
    "Environment",
    "Figure",
    "FoundImport",
    "ImportContext",
    "Isolation",
    "Json",
    "Limits",
    "LockedPackage",
    "Mount",
    "PackageFacts",
    "Plan",
    "PlannedPackage",
    "Progress",
    "ProgressCallback",
    "Representation",
    "RunError",
    "RunRequest",
    "RunResult",
    "Status",
    "UnknownImport",
    "Value",
    "no_progress",
]
