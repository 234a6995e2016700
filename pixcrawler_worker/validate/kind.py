"""Validation jobs, as the job core sees them."""

from pixcrawler_worker.db.validations import VALIDATION_JOBS
from pixcrawler_worker.domain.messages import Task
from pixcrawler_worker.jobs.kind import JobKind
from pixcrawler_worker.validate import planner, worker
from pixcrawler_worker.validate.display import VALIDATION_DISPLAY

VALIDATION = JobKind(
    table=VALIDATION_JOBS,
    display=VALIDATION_DISPLAY,
    start_task=Task.VALIDATION_START,
    cancel_task=Task.VALIDATION_CANCEL,
    retry_task=Task.VALIDATION_RETRY,
    record_request=planner.record_request,
    plan=planner.plan,
    prepare=worker.prepare,
    work=worker.work,
    write=worker.write,
    lock_parents=planner.lock_parents,
    conclude=planner.conclude,
    reopened=planner.reopened,
)
