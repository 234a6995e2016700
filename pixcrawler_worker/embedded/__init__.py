"""PostgreSQL and Redis from wheels, for a laptop, the demo and the tests.

Everything is below one data directory. A supervisor process starts both servers and stops them:

    client ──┐                 ┌── postgres
             ├── supervisor ───┤
    client ──┘                 └── redis-server

A client is a process that uses the services. Each keeps one connection to the supervisor open; the kernel closes it
however the client ends, by `kill -9` too. When the last connection is closed, the supervisor stops both servers.

On Linux the servers are killed when their supervisor dies. On every system each server inherits a lock, by which the
next start finds the servers of a killed supervisor and stops them first: while a lock is held, the process id in its
file is that of a running server.
"""
