"""What a run says on the terminal: a line about each part, and a table at the end."""

_MOST_NAMES = 30


def counted(tests):
    """Return counts of tests in words: "12 passed, 1 failed"."""
    return ", ".join(f"{count} {outcome}" for outcome, count in tests.items() if count)


def line(part):
    """Return what became of a part."""
    words = [f"{part['name']}: {part['status']} in {part['seconds']:.0f} s"]
    words += [counted(part.get("tests", {})), part.get("why", "")]
    return "; ".join(filter(None, words))


def rows(record):
    """Return the table: name, status, seconds, tests."""
    return [
        (part["name"], part["status"], f"{part['seconds']:.0f} s" if "seconds" in part else "", _about(part))
        for part in record.parts.values()
    ]


def _about(part):
    return "; ".join(filter(None, [counted(part.get("tests", {})), part.get("why", "")]))


def show(record):
    """Print the failed tests, and the table last."""
    failed = [f"{part['name']}: {test}" for part in record.parts.values() for test in part.get("failed", ())]
    for name in failed[:_MOST_NAMES]:
        print(f"FAILED {name}")
    if len(failed) > _MOST_NAMES:
        print(f"and {len(failed) - _MOST_NAMES} more, in gpu.json")
    content = record.content
    about = [f"commit {content['commit'][:12]}", content.get("gpu"), "a dry run" if content.get("dry_run") else None]
    print(f"\n{', '.join(filter(None, about))}: ended {content['ended']}, in {content['seconds']} s")
    table = [("part", "status", "time", ""), *rows(record)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for row in table:
        cells = [
            cell.rjust(width) if k == 2 else cell.ljust(width)
            for k, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        print("  ".join(cells).rstrip())
    print(end="", flush=True)
