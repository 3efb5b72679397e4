"""The room `clients`: client configurations, and the shell and Emacs files."""
