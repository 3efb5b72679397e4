"""Carrying what runs need to a machine without a network: one file out, checked and unpacked there."""
