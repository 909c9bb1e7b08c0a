"""A Space that shows teacher and student side by side."""
