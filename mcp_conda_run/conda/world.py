"""From the settings, and the user's condarc where that was asked for, to one way to the channels for both engines.

Called once by `runtime.py` and the commands: from here on the settings name channels without credentials, and `Access`
has what only the engines need.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..settings import Settings
from .access import Access
from .condarc import Condarc, expand, read_condarc
from .trust import trust_variables

log = logging.getLogger(__name__)

DEFAULT_CHANNELS = ("https://repo.anaconda.com/pkgs/main", "https://repo.anaconda.com/pkgs/r")
"""What `defaults` stands for where nothing else is said."""


def known_world(settings: Settings) -> tuple[Settings, Access]:
    """Return the settings as they hold, and how channels are reached.

    What the settings say themselves counts more than the condarc; this more than a template's own channels.

    Raises:
        SettingsError: a file cannot be used.
        InstallError: one host has two credentials.
    """
    condarc = read_condarc() if settings.use_condarc else Condarc()
    for note in condarc.notes:
        log.warning("%s", note)
    access = Access(
        channel_urls(condarc) if settings.use_condarc else {},
        proxy_variables(condarc.proxy_servers),
        alias=condarc.channel_alias,
        flexible=not condarc.has_priority,
    )
    channels = [expand(channel, os.environ) for channel in settings.channels] or list(condarc.channels)
    held: dict[str, Any] = {
        "channels": tuple(access.learn(channels)),
        "mirrors": tuple(clean_mirror(text, access) for text in (*settings.mirrors, *condarc_mirrors(condarc))),
        "package_layers": (*settings.package_layers, *existing(condarc.pkgs_dirs)),
    }
    if settings.ca_bundle is None and condarc.ca_bundle:
        held["ca_bundle"] = Path(condarc.ca_bundle)
    settings = settings.model_copy(update=held)
    access.environment.update(trust_variables(settings))
    return settings, access


def channel_urls(condarc: Condarc) -> dict[str, tuple[str, ...]]:
    """Return the addresses of the channels that have names of their own."""

    def address(channel: str) -> str:
        if "://" in channel or not condarc.channel_alias:
            return channel
        return f"{condarc.channel_alias}/{channel}"

    urls: dict[str, tuple[str, ...]] = {"defaults": condarc.default_channels or DEFAULT_CHANNELS}
    urls |= {name: (f"{base.rstrip('/')}/{name}",) for name, base in condarc.custom_channels.items()}
    urls |= condarc.custom_multichannels
    return {
        name: tuple(
            url for part in parts for url in (urls[part] if part in urls and part != name else (address(part),))
        )
        for name, parts in urls.items()
    }


def condarc_mirrors(condarc: Condarc) -> list[str]:
    """Return the first mirror of each channel, as the setting `mirrors` has them."""
    return [f"{channel}={mirrors[0]}" for channel, mirrors in condarc.mirrored_channels.items() if mirrors]


def clean_mirror(text: str, access: Access) -> str:
    """Return a mirror without credentials, which are remembered."""
    channel, equals, mirror = text.partition("=")
    return f"{access.learn_url(channel)}{equals}{access.learn_url(mirror)}" if equals else text


def proxy_variables(proxies: Mapping[str, str]) -> dict[str, str]:
    """Return the environment variables for proxies; conda's entries for single hosts have none and are left out."""
    names = {"http": "http_proxy", "https": "https_proxy", "all": "all_proxy"}
    return {names[scheme]: url for scheme, url in proxies.items() if scheme in names}


def existing(directories: Sequence[str]) -> list[str]:
    """Return those that are there."""
    paths = [os.path.expanduser(directory) for directory in directories]
    return [path for path in paths if os.path.isdir(path)]
