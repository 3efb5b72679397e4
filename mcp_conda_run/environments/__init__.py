"""The room `environments`: what lies on disk."""
