"""RULE: the job core; it knows no kind of job."""
