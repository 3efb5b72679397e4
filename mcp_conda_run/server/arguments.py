"""The arguments of the tools: how they are published, what is accepted for them, and how wrong ones are refused.

Used by `tools.py`. Models send lists as strings and make up argument names; the first is understood, the second is
refused with the name that was meant, since an ignored argument is worse than an error.
"""

from __future__ import annotations

import difflib
import re
import shlex
from typing import Annotated, Any

from mcp.server.mcpserver import Context
from mcp.server.mcpserver.tools import Tool
from pydantic import BaseModel, BeforeValidator, Field, ValidationError

from ..errors import RequestError
from .results import error_result

MAX_WAIT_S = 3600

_MAPS = frozenset({"properties", "$defs"})
_SAYS_NOTHING = frozenset({"title"})
"""Pydantic makes titles of the names; what an answer has by default says nothing of what it can have."""

_BARE_NAMES = re.compile(r"\s*[A-Za-z][\w.-]*(\s+[A-Za-z][\w.-]*)+\s*")
_BETWEEN_SPECS = re.compile(r"[\n;]|,(?=\s*[A-Za-z])")


def split_packages(value: Any) -> Any:
    """Accept `numpy, gdal>=3.8` or `numpy gdal` where a list is meant; the comma of `>=3.8,<4` separates nothing."""
    if not isinstance(value, str):
        return value
    parts = value.split() if _BARE_NAMES.fullmatch(value) else _BETWEEN_SPECS.split(value)
    return [part.strip() for part in parts if part.strip()]


def split_words(value: Any) -> Any:
    """Accept a command line where a list of arguments is meant."""
    return shlex.split(value) if isinstance(value, str) else value


PythonCode = Annotated[
    str,
    Field(
        description="Python source text. Top-level await works. The value of the last line, if it is an expression, is "
        "returned; open matplotlib figures come back as images."
    ),
]
FilePath = Annotated[
    str, Field(description="The Python file to run: a path below the mounted directory, such as /working/main.py.")
]
Arguments = Annotated[
    list[str], BeforeValidator(split_words), Field(description="sys.argv[1:] of the file.", max_length=1000)
]
GlobalVariables = Annotated[
    dict[str, Any], Field(description="Names and JSON values that the code finds as its global variables.")
]
Packages = Annotated[
    list[Annotated[str, Field(max_length=1000)]],
    BeforeValidator(split_packages),
    Field(
        description="conda packages to install besides those that the imports call for, as match specs: "
        '["gdal>=3.8", "graphviz"]; "pypi:NAME" for PyPI. Imports alone rarely need this.',
        max_length=200,
    ),
]
PythonVersion = Annotated[str, Field(description='A Python version such as "3.12". Empty: the template\'s.')]
TemplateName = Annotated[
    str, Field(description='The base environment: the name of a template, or "auto". Empty: the usual one.')
]
TimeoutS = Annotated[
    float,
    Field(ge=0, allow_inf_nan=False, description="Seconds that the code itself may take. 0: the server's bound."),
]
Network = Annotated[
    str,
    Field(description='What the code may reach: "full", "none" or "host[:port],...". Empty: the server\'s policy.'),
]
WaitS = Annotated[
    float,
    Field(
        ge=0,
        le=MAX_WAIT_S,
        allow_inf_nan=False,
        description="Seconds to wait for the end. After that the answer is a run_id for get_run; the run goes on.",
    ),
]
RunId = Annotated[str, Field(description="The run_id of an earlier answer.")]


class StrictTool(Tool):
    """A tool that refuses unknown arguments, and says what is wrong with the others in words for a model."""

    def model_post_init(self, context: Any, /) -> None:
        """Close the published schema, and drop from it what only costs a model's tokens."""
        super().model_post_init(context)
        arguments = self.fn_metadata.arg_model
        arguments.model_config["extra"] = "forbid"
        arguments.model_rebuild(force=True)
        self.parameters = _terse(arguments.model_json_schema(by_alias=True), _SAYS_NOTHING)
        answer = self.fn_metadata.output_schema
        self.fn_metadata.output_schema = _terse(answer, _SAYS_NOTHING | {"default"}) if answer else answer

    async def run(self, arguments: dict[str, Any], context: Context[Any, Any], convert_result: bool = False) -> Any:
        """Run the tool, unless an argument is wrong."""
        try:
            self.fn_metadata.validate_arguments(arguments)
        except ValidationError as error:
            return error_result(_refusal(self.name, self.fn_metadata.arg_model, error))
        return await super().run(arguments, context, convert_result)


def _refusal(tool: str, model: type[BaseModel], error: ValidationError) -> RequestError:
    names = [field.alias or name for name, field in model.model_fields.items()]
    said = []
    for problem in error.errors(include_url=False, include_input=False, include_context=False)[:5]:
        where = ".".join(str(part) for part in problem["loc"])[:100]
        if problem["type"] == "extra_forbidden":
            near = difflib.get_close_matches(where, names, n=1, cutoff=0.5)
            said.append(f"There is no argument {where!r}" + (f"; did you mean {near[0]!r}?" if near else "."))
        elif problem["type"] == "missing":
            said.append(f"The argument {where!r} is missing.")
        else:
            said.append(f"The argument {where!r} cannot be used: {problem['msg']}.")
    hint = f"{tool} takes {', '.join(names)}."
    return RequestError(" ".join(said), hint=hint, code="bad-arguments")


def _terse(schema: Any, dropped: frozenset[str]) -> Any:
    """Return a schema without some of its keywords, at every depth; properties of these names stay."""
    if isinstance(schema, list):
        return [_terse(part, dropped) for part in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: {name: _terse(part, dropped) for name, part in what.items()} if key in _MAPS else _terse(what, dropped)
        for key, what in schema.items()
        if key not in dropped
    }
