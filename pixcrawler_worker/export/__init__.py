"""Use case: archives made of the images of a crawl job."""
