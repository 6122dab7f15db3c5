"""Numbers for people: three digits and a unit."""

from __future__ import annotations

import re

_PREFIXES = {-12: "p", -9: "n", -6: "µ", -3: "m", 0: "", 3: "k", 6: "M", 9: "G", 12: "T"}


def quantity(value: float, unit: str = "") -> str:
    """Return 0.0000123, "s" as "12.3 µs"."""
    if value == 0:
        return f"0 {unit}".strip()
    exponent = int(f"{value:.2e}".split("e")[1]) // 3 * 3  # of the value as it will be rounded
    exponent = max(min(_PREFIXES), min(max(_PREFIXES), exponent))
    scaled = value / 10.0**exponent
    digits = 0 if scaled >= 99.95 else 1 if scaled >= 9.995 else 2
    return f"{scaled:.{digits}f} {_PREFIXES[exponent]}{unit}".rstrip()


def percent(value: float) -> str:
    """Return 0.123 as "12 %"."""
    return f"{100 * value:.1f} %" if value < 0.0995 else f"{100 * value:.0f} %"


def ratio(value: float) -> str:
    """Return 1.2345 as "1.23", and larger numbers with fewer decimals."""
    return f"{value:.2f}" if value < 9.995 else f"{value:.1f}" if value < 99.95 else f"{value:.0f}"


def natural(text: str) -> list[tuple[int, str]]:
    """Return a sort key by which 32 comes before 256."""
    return [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", text)]


def reading_order(group: str) -> tuple[object, ...]:
    """Return a sort key of cases: by workload and dtype, then by T, N, I and P, and then by B."""
    workload = re.split(r"\b[A-Z] = ", group)[0].casefold().split(", ")
    sizes = dict(re.findall(r"\b([TNIPB]) = (?:[NI] = )?(\d+)", group))
    return [natural(part) for part in workload], [int(sizes.get(name, 0)) for name in "TNIPB"], natural(group)
