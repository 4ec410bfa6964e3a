"""Distances between sets of pictures, and how different the pictures of one set are."""
