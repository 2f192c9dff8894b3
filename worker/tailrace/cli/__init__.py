"""The command line: one file per verb. Each parses, calls what does the work, and prints.

What a verb needs is imported inside its function: `tailrace --help` has to answer at once, and SQLAlchemy, Celery and
the settings take most of a second to load.
"""
