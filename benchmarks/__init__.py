"""How fast Tailrace is, measured against the limit and against what people would use instead. Not shipped.

::

    __main__            what to measure, how often; the table and results/latest.json
    stage               real servers, the stand-in upstream in a process of its own, real workers
      upstream          that upstream: filled streams, live writers
      usage             CPU seconds and peak memory of processes, from /proc
      texts             chunks of real text
    scenarios           one file for each row of the table (P1 to P10)
    rivals              what Tailrace is compared with
    quick               the regression gate: ratios against baseline.json
    simulate            how many workers a load needs
"""
