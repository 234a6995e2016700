"""Files by key: `facade` has the one class that everything uses."""
