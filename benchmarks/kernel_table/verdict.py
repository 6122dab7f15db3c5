"""What a row of figures says of the choice, and the table for people."""

from __future__ import annotations

from typing import Any

from benchmarks.blocks import Table
from benchmarks.kernel_table.sizes import BATCHES, Size
from fusedlstm.backends import kernel_choice, sequence_choice

SLOWER = 1.05  # a choice that takes this many times as long as the best is worth another look
LSTM = "torch.nn.LSTM"


def verdict(size: Size, figures: dict[str, dict[str, Any]], capability: int) -> dict[str, Any]:
    """Return the choice, the winner, and the times of the choice and of PyTorch divided by the winner's."""
    choice = _choice(size, capability)
    seconds = {name: median for name, figure in figures.items() if (median := _median(figure))}
    ours = {name: seconds[name] for name in size.kernels if name in seconds}
    winner = min(ours, key=ours.__getitem__, default=None)
    best = ours[winner] if winner else None
    return {
        "choice": choice,
        "winner": winner,
        "ratio": ours[choice] / best if best and choice in ours else None,
        "torch_ratio": seconds[LSTM] / best if best and LSTM in seconds else None,
    }


def _choice(size: Size, capability: int) -> str:
    about = size.dtype, size.precision, capability
    if size.T == 1:
        return kernel_choice.choose(size.B, size.N, size.N, None, *about)
    sizes = size.N, size.N, size.N
    return sequence_choice.choose(size.T, size.B, sizes, *about, projects=False, forced=None, can_plan=True)


def _median(figure: dict[str, Any]) -> float | None:
    """Return the GPU's seconds."""
    gpu = figure.get("seconds")
    return gpu["median"] if gpu else None


def tables(rows: list[dict[str, Any]]) -> list[tuple[str, Table]]:
    """Return a title and a table for each arithmetic and T: B down, N across.

    A cell has the winner, microseconds a step, the ratio, and PyTorch's.
    """
    found = []
    for arithmetic, T in dict.fromkeys((row["arithmetic"], row["T"]) for row in rows):
        of_table = [row for row in rows if (row["arithmetic"], row["T"]) == (arithmetic, T)]
        cells = {(row["B"], row["N"]): _cell(row) for row in of_table}
        sizes = sorted({N for _, N in cells})
        batches = sorted({B for B, _ in cells} | (set(BATCHES) if len(cells) > 1 else set()))
        lines = [[f"B = {B}", *(cells.get((B, N), "") for N in sizes)] for B in batches]
        lines = [line for line in lines if any(line[1:])]
        title = arithmetic if T == 1 else f"{arithmetic}, T = {T}"
        found.append((title, Table(["", *(f"N = {N}" for N in sizes)], lines)))
    return found


def _cell(row: dict[str, Any]) -> str:
    """Return the winner, its microseconds a step, the choice and its ratio if it is another, and PyTorch's ratio."""
    winner = row["winner"]
    if winner is None:
        return ", ".join(dict.fromkeys(figure["state"] for figure in row["figures"].values()))
    text = f"{winner} {1e6 * row['figures'][winner]['seconds']['median'] / row['T']:.2f}"
    if row["choice"] != winner:
        ratio = f" x{row['ratio']:.2f}" if row["ratio"] else " not measured"
        text += f" ({row['choice']}{ratio})"
    return text + (f" torch x{row['torch_ratio']:.1f}" if row["torch_ratio"] else "")


def slower(rows: list[dict[str, Any]]) -> list[str]:
    """Return a line for each row whose choice is slower than the best by more than a twentieth, the worst first."""
    found = sorted((row for row in rows if (row["ratio"] or 0) > SLOWER), key=lambda row: -row["ratio"])
    return [f"{row['row']}: {row['choice']} takes {row['ratio']:.2f} times as long as {row['winner']}" for row in found]


def wrong(rows: list[dict[str, Any]]) -> list[str]:
    """Return a line for each figure that was wrong or failed."""
    return [
        f"{row['row']}: {name} {figure['state']}: {figure['why']}"
        for row in rows
        for name, figure in row["figures"].items()
        if figure["state"] in ("wrong", "failed")
    ]


def text(table: Table) -> str:
    """Return a table as text, its columns side by side."""
    lines = [table.header, *table.rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(table.header))]
    padded = ("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)
    return "\n".join(line.rstrip() for line in padded)
