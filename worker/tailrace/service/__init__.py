"""The running process: what it reads, for whom, and what goes on in its background."""
