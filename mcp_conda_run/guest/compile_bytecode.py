"""Compiles what has no bytecode yet, in the environment that it runs in.

Usage: compile_bytecode.py WORKERS DIRECTORY ...; prints one line a finished file batch (`<done> <total>`) for a
progress bar. Run by `environments/build.py` with the environment's own Python. The bytecode is marked as unchecked
(PEP 552): an environment never changes, so Python need not look at the source again. Files that do not compile are
left alone, as conda leaves them: old syntax in a test folder is no fault of the environment.
"""

import os
import sys

BATCH = 64


def sources_without_bytecode(directories: "list[str]") -> "list[str]":
    """Return every .py file that has no .pyc of this interpreter beside it."""
    found = []
    suffix = f".{sys.implementation.cache_tag}.pyc"
    for directory in directories:
        for root, folders, files in os.walk(directory):
            sources = [name for name in files if name.endswith(".py")]
            have: set[str] = set()
            if "__pycache__" in folders:
                folders.remove("__pycache__")
                have.update(os.listdir(os.path.join(root, "__pycache__")) if sources else ())
            found += [os.path.join(root, name) for name in sources if name[:-3] + suffix not in have]
    return found


def compile_batch(paths: "list[str]") -> int:
    """Compile some files; return how many were tried."""
    import py_compile

    for path in paths:
        try:
            py_compile.compile(
                path, doraise=True, quiet=2, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH
            )
        except Exception:  # noqa: S112 - any source may be broken in any way
            continue
    return len(paths)


def main() -> None:
    """Compile what is missing, in as many processes as are allowed."""
    paths = sources_without_bytecode(sys.argv[2:])
    batches = [paths[start : start + BATCH] for start in range(0, len(paths), BATCH)]
    done = 0
    if len(batches) <= 1 or int(sys.argv[1]) <= 1:
        for batch in batches:
            done += compile_batch(batch)
            print(done, len(paths), flush=True)  # noqa: T201
        return
    from concurrent.futures import ProcessPoolExecutor  # takes longer to import than a batch to compile

    with ProcessPoolExecutor(int(sys.argv[1])) as pool:
        for count in pool.map(compile_batch, batches):
            done += count
            print(done, len(paths), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
