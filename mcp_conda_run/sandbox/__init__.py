"""The room `sandbox`: where code runs."""
