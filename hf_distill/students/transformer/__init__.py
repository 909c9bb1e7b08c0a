"""Smaller models of a Transformer teacher's own family."""
