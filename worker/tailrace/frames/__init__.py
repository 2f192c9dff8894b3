"""The archive as columns: a stream, a run or a query as an Arrow table, a pandas or a polars frame.

::

    from tailrace import frames

    frames.stream("run_1", "ai").to_polars()
    frames.run("run_1").to_arrow()
    frames.query("SELECT * FROM tailrace.run_overview").to_pandas()

Nothing is read before one of the methods is called. Importing this needs pyarrow (``pip install 'tailrace[frames]'``),
opens nothing and reads no setting. Described in docs/streams-api.md.
"""

from tailrace.frames.frame import Frame, query, run, stream

__all__ = ["Frame", "query", "run", "stream"]
