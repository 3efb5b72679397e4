"""Which packages a warm interpreter has imported before a run: chosen by what the code imports, from a few sets.

Called by the pool. Few sets, because each is an interpreter in memory; only packages that conda brought, because what
comes from PyPI was not looked at by anybody before it runs, and a zygote outlives the run that asked for it.
"""

from __future__ import annotations

from collections.abc import Iterable

from ..models import Environment

SETS: tuple[tuple[str, ...], ...] = (
    (),
    ("numpy",),
    ("numpy", "pandas"),
    ("numpy", "pandas", "matplotlib.pyplot"),
)
"""From small to large; each holds the one before it."""

LEAST = {"numpy": 1, "pandas": 2, "matplotlib": 3}
"""For what code imports, the smallest set that has it."""

IMPLIED = {
    **dict.fromkeys(("scipy", "sklearn", "skimage", "numba", "h5py", "netCDF4"), 1),
    **dict.fromkeys(("xarray", "geopandas", "statsmodels"), 2),
    **dict.fromkeys(("seaborn", "cartopy", "plotnine", "mpl_toolkits"), 3),
}
"""The same for packages that import one of these themselves."""


def preload_set(imports: Iterable[str], environment: Environment) -> tuple[str, ...]:
    """Return the modules to import ahead for code with these imports, as far as the environment has them by conda."""
    tops = {name.partition(".")[0] for name in imports}
    known = LEAST | IMPLIED
    wanted = SETS[max((known.get(top, 0) for top in tops), default=0)]
    by_conda = {package.name for package in environment.packages if package.manager == "conda"}
    return tuple(name for name in wanted if environment.modules.get(name.partition(".")[0]) in by_conda)
