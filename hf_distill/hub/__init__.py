"""Publishing on the Hub: students, caches, and what must not leave the machine."""
