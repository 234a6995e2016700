"""Flower for one machine: `python -m pixcrawler_worker.flower`, with the options of `celery flower`.

It serves the loopback interface, to those who know the password, and only under the names of this machine: a website
whose name is made to resolve to 127.0.0.1 gets nothing, whatever the browser sends along.
"""

import atexit
import importlib
import signal
import sys
from typing import Any

from tornado import httputil, routing, web
from tornado.options import options

from pixcrawler_worker.celery import app

#: Names under which a browser of this machine asks for it.
HOSTS = frozenset({"localhost", "127.0.0.1", "[::1]", "::1"})


class Denied(web.RequestHandler):
    """Answers requests that are meant for another host."""

    def prepare(self) -> None:
        """Answer each method with 421, Misdirected Request."""
        self.set_status(421, "Misdirected Request")
        self.finish("this is Flower at localhost: open it under that name\n")


class OtherHosts(routing.Matcher):
    """Matches requests for other hosts than this machine, by the header `Host`."""

    def match(self, request: httputil.HTTPServerRequest) -> dict[str, Any] | None:
        """Return None for this machine."""
        return None if request.host_name.lower() in HOSTS else {}


def main(arguments: list[str]) -> None:
    """Serve until SIGTERM.

    Args:
        arguments: options of Flower; those that are not here are taken from `FLOWER_...` in the environment.
    """
    # It is an extra, and has no types.
    command: Any = importlib.import_module("flower.command")
    urls: Any = importlib.import_module("flower.urls")
    application: Any = importlib.import_module("flower.app")
    command.apply_env_options()
    command.apply_options("flower", [*arguments, "--address=127.0.0.1"])
    command.extract_settings()
    command.setup_logging()
    served = application.Flower(capp=app, options=options, **urls.settings)
    served.default_router.rules.insert(0, routing.Rule(OtherHosts(), Denied))
    atexit.register(served.stop)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    served.start_http_server()
    served.start()


if __name__ == "__main__":
    main(sys.argv[1:])
