"""What the archive does with what is sealed: make it compact, export it, drop what is old, forget what must go."""
