"""Upstream's formats: bytes in, records out. Pure."""
