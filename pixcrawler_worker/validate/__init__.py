"""Use case: judge the images of a crawl job, and say why."""
