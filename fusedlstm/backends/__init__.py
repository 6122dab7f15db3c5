"""The backends: `base` says what one offers, `select` chooses one."""
