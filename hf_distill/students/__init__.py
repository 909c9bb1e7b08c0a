"""Small models: how they are built, initialized from a teacher, and tokenized."""
