"""What `pixcrawler up` prints; tests/acceptance/test_crawl.py runs it."""

import base64
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import redis

from pixcrawler_worker.cli import up
from pixcrawler_worker.embedded.services import Services

PROGRAM = """
import asyncio, os
from celery import Celery
from pixcrawler_worker import client
client.start_crawl(1)
asyncio.run(client.astart_crawl(2))
Celery(broker=os.environ["PIXCRAWLER_BROKER_URL"]).send_task("pixcrawler.crawl.start", args=[3], queue="crawl")
Celery(broker=os.environ["PIXCRAWLER_BROKER_URL"]).send_task("pixcrawler.crawl.start", [4], queue="crawl")
import psycopg
psycopg.connect(os.environ["PIXCRAWLER_DATABASE_URL"])
print(os.environ["PIXCRAWLER_DATA_DIR"])
"""


@pytest.fixture
def lists(services: Services) -> redis.Redis:
    server = redis.Redis.from_url(services.redis_url)
    server.flushdb()
    return server


def test_the_lines_for_a_shell_are_all_that_an_api_needs(services: Services, lists: redis.Redis) -> None:
    folder = Path('/of a "user"/it\'s $HOME/`x`')
    lines = up.export_lines(replace(services, data_dir=folder), tcp=False)
    script = "\n".join(["set -e", *lines, 'exec "$0" -c "$1"'])
    bare = {name: value for name, value in os.environ.items() if not name.startswith("PIXCRAWLER_")}
    done = subprocess.run(
        ["/bin/sh", "-c", script, sys.executable, PROGRAM],
        env=bare,
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{folder}\n", "")
    sent = [json.loads(base64.b64decode(json.loads(raw)["body"]))[0] for raw in reversed(lists.lrange("crawl", 0, -1))]
    assert sent == [[1, {}], [2, {}], [3], [4]]
    lists.flushdb()


def test_on_request_the_lines_have_ports() -> None:
    recorded = (
        '{"database_url": "postgresql:///x", "broker_url": "redis+socket:///x", "redis_url": "unix:///x", "data_dir":'
        ' "/data", "sockets": "/run", "redis_server": "redis-server", "durable": true, "pids": {"supervisor": 1,'
        ' "postgres": 2, "redis": 3}, "tcp_database_url": "postgresql://pixcrawler:a@127.0.0.1:1/pixcrawler",'
        ' "tcp_broker_url": "redis://:b@127.0.0.1:2/0"}'
    )
    services = Services.from_json(recorded)
    assert up.export_lines(services, tcp=True) == [
        "export PIXCRAWLER_DATABASE_URL=postgresql://pixcrawler:a@127.0.0.1:1/pixcrawler",
        "export PIXCRAWLER_BROKER_URL=redis://:b@127.0.0.1:2/0",
        "export PIXCRAWLER_DATA_DIR=/data",
    ]
