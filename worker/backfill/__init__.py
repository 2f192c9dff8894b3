"""Find runs that nobody asked for, and keep what is sealed: what goes on in the background of a worker."""
