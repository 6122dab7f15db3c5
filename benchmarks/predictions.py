"""Predicted times of each kernel, and the files that keep them. The tables of choices come from the same models.

    python -m benchmarks predictions

writes predictions.json, which a report shows beside measurements, and predictions.md, for people. Nothing in them was
measured. If a run on a GPU disagrees, the model is wrong, and so is the table.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from pathlib import Path

from benchmarks import report_markdown
from benchmarks.blocks import Block, Bullets, Heading, Paragraph, Table
from benchmarks.constants import Gpu
from benchmarks.sequence_model import predict_sequence
from benchmarks.step_model import DTYPES, predict
from fusedlstm.backends import kernel_choice, sequence_choice

FOLDER = Path(__file__).parent
DATE = "2026-11-30"
ABOUT = f"Predictions of a model, written on {DATE}. No figure here was measured."

# The predictions to keep: all batches of all sizes, and a wide cell with a projection, in each arithmetic.
_BATCHES, _SIZES = (1, 32, 256, 1024, 4096, 16384), (128, 256, 512, 1024)
SHAPES = [(B, N, N, None) for N in _SIZES for B in _BATCHES] + [(32, 640, 2048, 640)]
PRECISIONS = {"bfloat16": "highest", "tf32": "high", "float32": "highest", "float64": "highest"}
_CAPABILITY = 90


def kernels_of(arithmetic: str) -> list[str]:
    """Return the kernels that can multiply in this arithmetic."""
    dtype, precision = DTYPES[arithmetic], PRECISIONS[arithmetic]
    return [name for name in kernel_choice.NAMES if kernel_choice.reason_against(name, dtype, precision) is None]


def chosen(arithmetic: str, B: int, I: int, N: int, P: int | None) -> str:
    """Return the kernel that the table has for a shape."""
    return kernel_choice.choose(B, I, N, P, DTYPES[arithmetic], PRECISIONS[arithmetic], _CAPABILITY)


def compute() -> dict:
    """Return the content of predictions.json."""
    rows = []
    for arithmetic in PRECISIONS:
        for B, I, N, P in SHAPES:
            predictions = {
                kernel: predict(kernel, B=B, I=I, N=N, P=P, arithmetic=arithmetic) for kernel in kernels_of(arithmetic)
            }
            rows.append(
                {
                    "arithmetic": arithmetic,
                    "B": B,
                    "I": I,
                    "N": N,
                    "P": P,
                    "kernels": {
                        kernel: {"us": round(1e6 * one.seconds, 2), "bound": one.bound}
                        for kernel, one in predictions.items()
                    },
                    "fastest": min(predictions, key=lambda kernel: predictions[kernel].seconds),
                    "chosen": chosen(arithmetic, B, I, N, P),
                }
            )
    sequences = [_sequence(arithmetic, *shape) for arithmetic in _SCANNED for shape in SEQUENCES]
    sequences += [_sequence("bfloat16", *shape) for shape in PROJECTED]
    return {"about": ABOUT, "date": DATE, "gpu": dataclasses.asdict(Gpu()), "rows": rows, "sequences": sequences}


# The sequences to keep, where a scan is possible.
SEQUENCES = [(B, N, N) for N in (32, 64, 96, 128) for B in (1, 16, 128, 1024, 2048, 4096, 16384)]
SEQUENCES += [(B, 1024, 128) for B in (1, 128, 512, 2048, 4096)]
PROJECTED = [(B, N, N, N // 2) for N in (64, 128) for B in (1, 128, 1024, 2048, 4096)]
_LONG = 64  # steps
_SCANNED = ("bfloat16", "tf32")


def chosen_of_sequences(arithmetic: str, B: int, I: int, N: int, P: int | None) -> str:
    """Return the kernel that the tables have for sequences."""
    about = DTYPES[arithmetic], PRECISIONS[arithmetic], _CAPABILITY
    return sequence_choice.choose(_LONG, B, (I, N, P or N), *about, projects=P is not None, forced=None, can_plan=True)


def _sequence(arithmetic: str, B: int, I: int, N: int, P: int | None = None) -> dict:
    predictions = {
        kernel: predict_sequence(kernel, B=B, I=I, N=N, P=P, arithmetic=arithmetic)
        for kernel in (*kernels_of(arithmetic), kernel_choice.SCAN)
    }
    return {
        "arithmetic": arithmetic,
        "B": B,
        "I": I,
        "N": N,
        "P": P,
        "kernels": {
            kernel: {"us": round(1e6 * one.seconds, 2), "of_x": round(1e6 * one.of_x, 2), "bound": one.step.bound}
            for kernel, one in predictions.items()
        },
        "fastest": min(predictions, key=lambda kernel: predictions[kernel].seconds),
        "chosen": chosen_of_sequences(arithmetic, B, I, N, P),
    }


def write(folder: Path = FOLDER) -> list[Path]:
    """Write predictions.json and predictions.md into a folder, and return their paths."""
    content = compute()
    data, text = folder / "predictions.json", folder / "predictions.md"
    written = json.dumps({**content, "rows": [], "sequences": []}, indent=1)
    for name in ("rows", "sequences"):
        lines = ",\n".join(json.dumps(row) for row in content[name])
        written = written.replace(f'"{name}": []', f'"{name}": [\n{lines}\n ]')
    data.write_text(written + "\n", encoding="utf-8")
    text.write_text(report_markdown.render(_blocks(content)), encoding="utf-8")
    return [data, text]


def _blocks(content: dict) -> list[Block]:
    """Return the predictions as a page for people."""
    blocks: list[Block] = [
        Heading(1, "Predicted times of the kernels of a step"),
        Paragraph(
            f"{content['about']} The model, predictions.py, describes an NVIDIA H200 by the constants below. The table "
            "that chooses a kernel comes from it, too. Cells have the microseconds of one step within a graph, and "
            "what bounds them."
        ),
        Bullets([(name, _constant(value)) for name, value in content["gpu"].items()]),
    ]
    for arithmetic in PRECISIONS:
        kernels = kernels_of(arithmetic)
        cells = [
            [
                ", ".join(f"{letter} = {row[letter]}" for letter in "BINP" if row[letter]),
                *(f"{row['kernels'][kernel]['us']:.1f}, {row['kernels'][kernel]['bound']}" for kernel in kernels),
                row["fastest"],
                row["chosen"],
            ]
            for row in content["rows"]
            if row["arithmetic"] == arithmetic
        ]
        blocks += [Heading(2, _title(arithmetic)), Table(["step", *kernels, "fastest", "in the table"], cells)]
    return blocks + [block for arithmetic in _SCANNED for block in _blocks_of_sequences(content, arithmetic)]


def _title(arithmetic: str) -> str:
    return {"bfloat16": "bfloat16 and float16", "tf32": 'float32, precision="high"'}.get(arithmetic, arithmetic)


def _blocks_of_sequences(content: dict, arithmetic: str) -> list[Block]:
    kernels = [*kernels_of(arithmetic), kernel_choice.SCAN]
    cells = [
        [
            ", ".join(f"{letter} = {row[letter]}" for letter in "BINP" if row[letter]),
            *(_cell_of_sequences(**row["kernels"][kernel]) for kernel in kernels),
            row["fastest"],
            row["chosen"],
        ]
        for row in content["sequences"]
        if row["arithmetic"] == arithmetic
    ]
    return [
        Heading(2, f"Sequences: {_title(arithmetic)}"),
        Paragraph(
            "Cells have the microseconds of a step of a long sequence without flags, which sequence_model.py predicts. "
            "Those of them that x's part of the gates takes, in a launch for many steps, are in brackets."
        ),
        Table(["step", *kernels, "fastest", "in the table"], cells),
    ]


def _cell_of_sequences(us: float, of_x: float, bound: str) -> str:
    return f"{us:.1f}{f' ({of_x:.1f})' if of_x else ''}, {bound}"


def _constant(value: float | dict[str, float]) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {one:g}" for name, one in value.items())
    return f"{value:g}"


@functools.cache
def _kept() -> dict[tuple, dict[str, float]]:
    rows = json.loads((FOLDER / "predictions.json").read_text(encoding="utf-8"))["rows"]
    return {
        tuple(row[name] for name in ("arithmetic", "B", "I", "N", "P")): {
            kernel: one["us"] / 1e6 for kernel, one in row["kernels"].items()
        }
        for row in rows
    }


def kept(kernel: str, *, B: int, I: int, N: int, P: int | None, dtype: str, precision: str) -> float | None:
    """Return the seconds that predictions.json has for a kernel at a shape, or None."""
    arithmetic = kernel_choice.arithmetic("bfloat16" if dtype == "float16" else dtype, precision)
    return _kept().get((arithmetic, B, I, N, P), {}).get(kernel)
