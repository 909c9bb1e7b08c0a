"""One YAML file from data and a teacher to a published student."""
