"""What Tailrace is compared with. Each ``measure`` gives chunks a second and CPU µs a chunk of the reading process.

limit: what the parts can do alone · naive: the recipe of the documentation in Python · node: the vendor's own client ·
pipelines: dlt.
"""
