"""What brief runs on a GPU share: rows that are kept as they are measured, times by events, and restarts."""
