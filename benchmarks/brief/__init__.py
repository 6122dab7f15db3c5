"""Shared by the short runs on a GPU: rows that are kept as they are measured, timing by events, and restarts."""
