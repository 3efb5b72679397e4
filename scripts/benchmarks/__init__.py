"""The parts of `scripts/bench`: what is measured, and how it is shown."""
