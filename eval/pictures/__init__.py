"""Prompts, and the pictures that models draw for them."""
