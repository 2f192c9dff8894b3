"""The incidents of `operate/drill`: one or more for each page of docs/runbooks, one or more alerts for each.

::

    of_workers, of_archive, of_maintenance, of_upstream, of_broker, of_readers    the incidents
      sessions                                  sessions of Postgres that somebody left open
      drill                                     what one is, and how it is practised
        fleet                                   servers, workers, exporter: started, harmed, looked at
          figures                               what is seen of them
          upstream                              the stand-in for Trigger.dev and its faults
            written                             the runs that it has
"""
