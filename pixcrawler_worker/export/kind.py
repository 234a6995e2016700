"""Export jobs, as the job core sees them."""

from pixcrawler_worker.db.exports import EXPORT_JOBS
from pixcrawler_worker.domain.messages import Task
from pixcrawler_worker.export import cleanup, planner, worker
from pixcrawler_worker.export.display import EXPORT_DISPLAY
from pixcrawler_worker.jobs.kind import JobKind

EXPORT = JobKind(
    table=EXPORT_JOBS,
    display=EXPORT_DISPLAY,
    start_task=Task.EXPORT_START,
    cancel_task=Task.EXPORT_CANCEL,
    retry_task=Task.EXPORT_RETRY,
    record_request=planner.record_request,
    plan=planner.plan,
    prepare=worker.prepare,
    work=worker.work,
    write=worker.write,
    conclude=planner.conclude,
    reopened=planner.reopened,
    clean_up=cleanup.clean_up,
)
