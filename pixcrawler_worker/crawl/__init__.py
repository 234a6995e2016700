"""Use case: plan a crawl job, run one chunk of it, top it up, conclude it."""
