"""Postgres: what is archived and who may write it. One function a statement; SQLAlchemy and psycopg live here only."""
