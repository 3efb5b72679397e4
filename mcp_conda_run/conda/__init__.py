"""The room `conda`: how packages become an environment."""
