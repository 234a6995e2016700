"""`pixcrawler browse`: all images of a job in one HTML page."""
