"""PostgreSQL and Redis from wheels, for a laptop, the demo and the tests.

Everything lies below one data directory. A guardian process starts both servers and stops them:

    user ──┐               ┌── postgres
           ├── guardian ───┤
    user ──┘               └── redis-server

Every user keeps one connection to the guardian open. The kernel closes it however the user ends, kill -9 included, and
when the last one has closed the guardian stops both servers. The servers die with their guardian where the kernel
offers that (Linux); everywhere, each inherits a lock, so that the next start sees what a killed guardian left behind
and stops it first: a lock that is held says that the process id inside it is alive and nobody else's.
"""

from pixcrawler_worker.embedded.services import FAKE_REDIS, EmbeddedError, Pids, Services
from pixcrawler_worker.embedded.users import find, locate, running

__all__ = ["FAKE_REDIS", "EmbeddedError", "Pids", "Services", "find", "locate", "running"]
