"""Says what an environment's interpreter is: one JSON object on standard output.

Run by `environments/build.py` with the environment's own Python, once, when the environment is made; that it runs at
all is the environment's first check.
"""

import json
import os
import sys
import sysconfig


def main() -> None:
    """Print version, standard modules, the interpreter's relative path and the places of packages."""
    prefix = os.path.abspath(sys.prefix)
    places = {os.path.relpath(sysconfig.get_path(name), prefix) for name in ("purelib", "platlib")}
    facts = {
        "version": "{}.{}.{}".format(*sys.version_info[:3]),
        "python": os.path.relpath(os.path.realpath(sys.executable), os.path.realpath(prefix)),
        "stdlib": sorted(sys.stdlib_module_names),
        "library": os.path.relpath(sysconfig.get_path("stdlib"), prefix),
        "site_packages": sorted(places),
    }
    json.dump(facts, sys.stdout)


main()
