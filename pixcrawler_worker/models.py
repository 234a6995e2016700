"""The documented tables as SQLAlchemy models, for an API's code: `from pixcrawler_worker.models import CrawlJob`."""

from pixcrawler_worker.db.models import ActivityLog, Base, CrawlJob, ExportJob, Image, Profile, Project, ValidationJob

__all__ = ["ActivityLog", "Base", "CrawlJob", "ExportJob", "Image", "Profile", "Project", "ValidationJob"]
