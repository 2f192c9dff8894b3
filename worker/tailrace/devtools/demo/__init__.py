"""The demonstration: the real worker on two recorded runs, killed in mid-stream, compared with the recordings.

::

    story        the steps, in order
    recordings   what is played, and what must be in the archive afterwards
    children     the processes that are started, killed and ended
    comparison   archive against recordings: lost, doubled, out of order
"""
