"""What each image format declares about itself: a file for each, which walks over its blocks."""
