"""Tailrace: durable ingestion of run streams. Importing this package opens nothing and configures nothing."""

__version__ = "0.1.0"
