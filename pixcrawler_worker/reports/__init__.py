"""Pages about jobs that open anywhere: each is one file that holds everything it shows, pictures included."""
