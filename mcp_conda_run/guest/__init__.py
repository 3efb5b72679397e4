"""The room `guest`: what runs inside an environment, under that environment's Python.

Standard library only, each module alone.
"""
