"""The backends: `base` defines their interface, and `select` chooses one."""
