"""Tests of what runs are started by and confined in."""

KEY = "0123456789abcdef"
"""The key of the one environment that these tests make."""
