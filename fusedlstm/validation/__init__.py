"""Checks of arguments. They raise before any work is done, with the same words on every backend."""
