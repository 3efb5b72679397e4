"""Turn a relocatable CPython and wheels of PyPI into a genuine conda channel.

`scripts/build_local_channel.py` is the command. For tests, and for trying things out where conda-forge cannot be
reached; never for distribution: the Python uses the system libraries (OpenSSL, SQLite, ...) of the machine on which it
was made.
"""
