"""Student models: architectures, initialisation from a teacher, and tokenizers."""
