"""The broker's edge: messages are checked here before kombu and Celery read them."""
