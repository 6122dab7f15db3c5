"""Checks of arguments: all errors about one are raised here, before any work, in the same words on every backend."""
