"""The wire protocol's names: tasks, and the queue each one travels on."""

from enum import StrEnum


class Queue(StrEnum):
    """Queues that a worker consumes; `-Q` narrows them."""

    CRAWL = "crawl"
    VALIDATION = "validation"
    EXPORT = "export"
    MAINTENANCE = "maintenance"


class Task(StrEnum):
    """Names of tasks. They are a contract with every API that enqueues: never renamed."""

    CRAWL_START = "pixcrawler.crawl.start"
    CRAWL_CHUNK = "pixcrawler.crawl.chunk"
    CRAWL_CANCEL = "pixcrawler.crawl.cancel"
    CRAWL_RETRY = "pixcrawler.crawl.retry"
    VALIDATION_START = "pixcrawler.validation.start"
    VALIDATION_CHUNK = "pixcrawler.validation.chunk"
    VALIDATION_CANCEL = "pixcrawler.validation.cancel"
    VALIDATION_RETRY = "pixcrawler.validation.retry"
    EXPORT_START = "pixcrawler.export.start"
    EXPORT_PART = "pixcrawler.export.part"
    EXPORT_CANCEL = "pixcrawler.export.cancel"
    EXPORT_RETRY = "pixcrawler.export.retry"
    SWEEP = "pixcrawler.maintenance.sweep"


QUEUES: dict[Task, Queue] = {
    Task.CRAWL_START: Queue.CRAWL,
    Task.CRAWL_CHUNK: Queue.CRAWL,
    Task.CRAWL_CANCEL: Queue.MAINTENANCE,
    Task.CRAWL_RETRY: Queue.CRAWL,
    Task.VALIDATION_START: Queue.VALIDATION,
    Task.VALIDATION_CHUNK: Queue.VALIDATION,
    Task.VALIDATION_CANCEL: Queue.MAINTENANCE,
    Task.VALIDATION_RETRY: Queue.VALIDATION,
    Task.EXPORT_START: Queue.EXPORT,
    Task.EXPORT_PART: Queue.EXPORT,
    Task.EXPORT_CANCEL: Queue.MAINTENANCE,
    Task.EXPORT_RETRY: Queue.EXPORT,
    Task.SWEEP: Queue.MAINTENANCE,
}
