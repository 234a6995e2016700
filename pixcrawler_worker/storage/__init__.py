"""Files by key, in a folder, an object store, or memory; `facade` has the class that the other packages use."""
