"""Every knob, in one place: default < configuration file < `MCP_CONDA_RUN_*` < command line.

A field here is an environment variable (`MCP_CONDA_RUN_` and the name in capitals), a key of the TOML configuration
file and, where it is useful there, an option of the command line with dashes. Read once, at the start of a command.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, cast, get_args

import platformdirs
from pydantic import BeforeValidator, Field, SecretStr, ValidationError
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from .errors import RequestError, SettingsError
from .models import Limits

MEBIBYTE = 1024 * 1024
MAX_CACHE_PATH = 180
"""Conda records prefixes in a 255-byte field; what is left is for `/envs/<key>` and the files' own names."""


def split_list(value: Any) -> Any:
    """Accept `a, b` where a list is meant, as environment variables give it."""
    if isinstance(value, str):
        return tuple(part for part in (piece.strip() for piece in value.split(",")) if part)
    return value


Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(split_list)]


def config_file() -> Path:
    """Return the path of the configuration file, which need not exist."""
    named = os.environ.get("MCP_CONDA_RUN_CONFIG")
    return Path(named) if named else platformdirs.user_config_path("mcp-conda-run") / "config.toml"


def data_dir() -> Path:
    """Return the directory of what is ours and no cache, such as a micromamba that we downloaded."""
    return platformdirs.user_data_path("mcp-conda-run")


def split_bounds(value: Any) -> Any:
    """Accept `memory_mb=512, disk_mb=100` where numbers by name are meant."""
    if not isinstance(value, str):
        return value
    pairs = (pair.partition("=") for pair in split_list(value))
    return {name.strip(): number.strip() for name, _, number in pairs}


LimitName = Literal["cpu_s", "memory_mb", "processes", "disk_mb", "open_files", "file_size_mb", "output_kb"]
Bounds = Annotated[dict[LimitName, Annotated[float, Field(ge=0)]], NoDecode, BeforeValidator(split_bounds)]


class Settings(BaseSettings):
    """The knobs. Sizes carry their unit in the name; times are seconds."""

    model_config = SettingsConfigDict(env_prefix="MCP_CONDA_RUN_", frozen=True, extra="forbid")

    cache_dir: Path = Field(
        default_factory=lambda: platformdirs.user_cache_path("mcp-conda-run"),
        description="Where packages, locks and environments are kept; one file system, so that hard links work.",
    )
    cache_limit_mb: int = Field(
        default=30 * 1024,
        ge=0,
        description="What the cache may hold, in MiB; what was not wanted for longest goes first. 0 for no limit.",
    )
    channels: Names = Field(default=(), description="Channels instead of the template's, first wins (strict priority).")
    engine: Literal["auto", "rattler", "micromamba"] = Field(
        default="auto", description="What solves and installs; `auto` is your micromamba where there is one."
    )
    micromamba: Path | None = Field(
        default=None, description="The micromamba to use, instead of the one in MAMBA_EXE or on PATH."
    )
    store_layers: Names = Field(
        default=(),
        description="Caches of others (such as one of all users), whose environments and packages are used as they "
        "are.",
    )
    micromamba_mirror: str = Field(
        default="",
        pattern=r"^(https?://\S+)?$",
        description="Where `get-micromamba` downloads from, instead of its releases on GitHub.",
    )
    prefix: str = Field(
        default="",
        description="An environment that you have, by path or name: runs get copies of it (`--prefix`, `--name`).",
    )
    use_condarc: bool = Field(
        default=False,
        description="Follow your .condarc and .mambarc: channels, mirrors, proxies, certificates, caches.",
    )
    package_layers: Names = Field(
        default=(), description="Existing package caches of conda, micromamba or pixi, read and never written."
    )
    template: str = Field(default="base", description="The template that runs use: a name, a file, or `auto`.")
    templates_dir: Path = Field(
        default_factory=lambda: platformdirs.user_config_path("mcp-conda-run") / "templates",
        description="Where your own templates are kept (`templates add`).",
    )
    stale_lock: Literal["relock", "refuse", "use"] = Field(
        default="relock", description="What to do where a template has changed since the lock beside it was made."
    )
    path: Path | None = Field(default=None, description="The host directory that runs see at `mount`.")
    mount: str = Field(default="/working", pattern=r"^/[^/].*$", description="Where runs see `path`.")
    mounts: Names = Field(default=(), description="Further directories that runs see, each `SOURCE:TARGET[:ro]`.")
    offline: bool = Field(default=False, description="Never fetch anything; use only what is cached.")
    mirrors: Names = Field(
        default=(), description="Where to fetch channels from instead, each `CHANNEL=URL`; channels by name or URL."
    )
    ca_bundle: Path | None = Field(
        default=None, description="A PEM file with the certificate authorities to trust, for channels and for PyPI."
    )
    exclude_newer: str = Field(default="", description="Ignore packages newer than this date (ISO 8601).")
    isolation: Literal["auto", "strict", "none"] = Field(default="auto", description="How runs are confined.")
    network: str = Field(default="full", description="`full`, `none`, or a comma separated list of host[:port].")
    full_by: Literal["proxy", "pasta"] = Field(
        default="proxy",
        description="What serves the network `full`: the proxy, for HTTP and HTTPS, or pasta where it is installed, "
        "for all of the internet; such a run starts without a warm interpreter.",
    )
    pip: Literal["auto", "off", "ask", "on"] = Field(
        default="auto",
        description="Packages from PyPI: never, after asking, or on. `auto` asks where the client can be asked, and "
        "otherwise takes those that a table or a declaration vouches for.",
    )
    pypi_index: str = Field(
        default="",
        pattern=r"^(https?://\S+)?$",
        description="The simple index that serves PyPI's packages; if empty, the user's own for uv or pip, or PyPI.",
    )
    pip_cooldown_days: float = Field(default=7, ge=0, description="Ignore files uploaded to PyPI later than this.")
    pip_min_age_days: float = Field(default=90, ge=0, description="Ignore PyPI projects younger than this.")
    allow_packages: Names = Field(default=(), description="If given, only these may be added; `pypi:NAME` for PyPI.")
    deny_packages: Names = Field(default=(), description="These are never added; `pypi:NAME` for PyPI's.")
    allow_channels: Names = Field(
        default=("conda-forge",), description="Channels that a run may ask for beyond those configured; `*` for any."
    )
    online_maps: bool = Field(default=False, description="Ask public import maps about unknown imports.")
    pool_mb: int = Field(
        default=1024, ge=0, description="What warm interpreters may use together, in MiB; 0 for none of them."
    )
    slots: int = Field(default_factory=lambda: os.cpu_count() or 1, ge=1, description="Runs at the same time.")
    queue: int = Field(
        default=1000, ge=0, description="Runs that may wait for packages or for their turn; one more is refused."
    )

    token: SecretStr = Field(default=SecretStr(""), description="What HTTP clients must send as a bearer token.")
    token_file: Path | None = Field(default=None, description="A file that has that token instead.")
    allowed_hosts: Names = Field(default=(), description="Names under which HTTP clients may reach this server.")
    audit_log: Path | None = Field(
        default=None, description="A file to which every run is written, and what was installed for it."
    )
    client_runs: int = Field(
        default=20, ge=1, description="Runs that one HTTP client (one address) may have under way or waiting."
    )

    timeout_s: float = Field(default=60, gt=0, description="Wall time of a run.")
    max_timeout_s: float = Field(default=3600, gt=0, description="The longest wall time that a request may ask for.")
    install_timeout_s: float = Field(default=900, gt=0, description="Time to lock, solve, fetch and install.")
    cpu_s: float = Field(default=0, ge=0, description="CPU time of a run; 0 for none beyond the wall time.")
    memory_mb: int = Field(default=4096, ge=64, description="Memory of a run with all its processes, in MiB.")
    processes: int = Field(default=256, ge=4, description="Processes and threads of a run.")
    disk_mb: int = Field(default=2048, ge=16, description="What a run may write to its prefix and temp, in MiB.")
    open_files: int = Field(default=1024, ge=64, description="Open files of each process.")
    file_size_mb: int = Field(default=1024, ge=1, description="The largest single file, in MiB.")
    output_kb: int = Field(default=1024, ge=16, description="Output kept of a run, in KiB; the middle is dropped.")
    max_limits: Bounds = Field(
        default={}, description="How far a run may raise its own bounds, as `memory_mb=16384,disk_mb=8192`."
    )
    max_code_kb: int = Field(default=4096, ge=1, description="The longest code or file accepted, in KiB.")
    records: int = Field(default=1000, ge=0, description="How many runs are kept on record, for `replay`; 0 for none.")
    records_days: float = Field(default=30, gt=0, description="How long they are kept, in days.")
    records_mb: int = Field(default=64, ge=1, description="What the records may take, in MiB.")
    records_code: bool = Field(
        default=True, description="Keep code, arguments and global variables on record, not only the code's hash."
    )
    solution_max_age_s: float = Field(default=7 * 86400, ge=0, description="How long a solved set is used again.")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - part of the signature; .env files are not read
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Order the sources: command line, environment, configuration file."""
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls, config_file())

    def limits(self, timeout_s: float | None = None, asked: Mapping[str, float] | None = None) -> Limits:
        """Return the bounds of one run.

        Args:
            timeout_s: the wall time that the run asks for.
            asked: other bounds that it asks for, by the names of the settings; lower ones are always granted.

        Raises:
            RequestError: a bound has no such name, or is beyond what is allowed.
        """
        bounds = {name: float(getattr(self, name)) for name in get_args(LimitName)}
        for name, wanted in (asked or {}).items():
            self._check_bound(name, wanted, bounds)
            bounds[name] = wanted
        return Limits(
            wall_s=min(timeout_s or self.timeout_s, self.max_timeout_s),
            cpu_s=bounds["cpu_s"],
            memory_bytes=int(bounds["memory_mb"] * MEBIBYTE),
            processes=int(bounds["processes"]),
            disk_bytes=int(bounds["disk_mb"] * MEBIBYTE),
            open_files=int(bounds["open_files"]),
            file_size_bytes=int(bounds["file_size_mb"] * MEBIBYTE),
            output_bytes=int(bounds["output_kb"] * 1024),
        )

    def _check_bound(self, name: str, wanted: float, bounds: Mapping[str, float]) -> None:
        if name not in bounds:
            raise RequestError(
                f"There is no limit {name!r}.", hint=f"Choose from {', '.join(bounds)}.", code="unknown-limit"
            )
        highest = max(bounds[name], self.max_limits.get(cast(LimitName, name), 0))
        unbounded = name == "cpu_s" and bounds[name] == 0
        if wanted <= 0 or (wanted > highest and not unbounded):
            raise RequestError(
                f"A run may have between 1 and {highest:g} of {name}; {wanted:g} was asked for.",
                hint=f"The operator can allow more with MCP_CONDA_RUN_MAX_LIMITS={name}={wanted:g}.",
                code="limit-not-allowed",
            )


def load_settings(**command_line: Any) -> Settings:
    """Read the settings from all sources; options that are None count as not given.

    Raises:
        SettingsError: a value cannot be used, or the configuration file cannot be read.
    """
    given = {name: value for name, value in command_line.items() if value is not None}
    try:
        settings = Settings(**given)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"]) or "settings"
        raise SettingsError(
            f"The setting {name} cannot be used: {first['msg']}.",
            hint=f"Check the option --{name.replace('_', '-')}, MCP_CONDA_RUN_{name.upper()} and {config_file()}.",
        ) from None
    except (OSError, ValueError) as error:
        raise SettingsError(
            f"The configuration file {config_file()} cannot be read: {error}.", hint="Mend or remove the file."
        ) from None
    if len(os.fsencode(settings.cache_dir.absolute())) > MAX_CACHE_PATH:
        raise SettingsError(
            f"The cache directory's path is too long for conda prefixes ({settings.cache_dir}).",
            hint=f"Choose one of at most {MAX_CACHE_PATH} bytes with MCP_CONDA_RUN_CACHE_DIR.",
        )
    return with_prefix(settings)


def with_prefix(settings: Settings) -> Settings:
    """Return the settings with the environment that `prefix` means as their template.

    Raises:
        RequestError: there is no such environment.
    """
    if not settings.prefix:
        return settings
    from .environments.prefixes import as_template_name  # noqa: PLC0415 - only few need it

    return settings.model_copy(update={"template": as_template_name(settings.prefix)})
