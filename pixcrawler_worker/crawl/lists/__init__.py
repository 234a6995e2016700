"""URL lists: plain text, CSV and TSV, JSON and JSON Lines, Parquet, also compressed. `reading.py` is where to begin."""
