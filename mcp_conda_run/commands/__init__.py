"""The command line's larger commands, a module each; `cli.py` has the everyday ones."""
