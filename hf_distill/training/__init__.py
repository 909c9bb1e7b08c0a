"""The trainer, its arguments and its objective."""
