"""`python -m benchmarks report`: figures checked by hand, a complete self-contained page, and refused files."""

import base64
import copy
import importlib.util
import json
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser

import pytest

from benchmarks import __main__ as command
from benchmarks import predictions, report, runs
from benchmarks.units import natural, percent, quantity, ratio

needs_markdown = pytest.mark.skipif(
    importlib.util.find_spec("markdown") is None, reason="markdown, of the extra report, is not installed"
)
needs_matplotlib = pytest.mark.skipif(
    importlib.util.find_spec("matplotlib") is None, reason="matplotlib, of the extra report, is not installed"
)

# Rates that make figures easy to compute by hand: 1 Gflop/s, 0.1 G evaluations a second, copies too fast to bind.
LIMITS = {
    "cpu": {
        "device": "cpu",
        "threads": 1,
        "copy": [[1000, 1e15]],
        "matmul": {"float32": 1e9},
        "special": {"float32": 1e8},
    }
}


def entry(peer, median, *, B=2, N=10, kind="step", group=None, **info):
    """Return a benchmark with I = N. For N = 10, that is 160 B N flop."""
    stats = {"min": median * 0.9, "median": median, "q1": median * 0.95, "q3": median * 1.1, "iqr": median * 0.15}
    extra = {"kind": kind, "case": "", "T": 1, "B": B, "I": N, "N": N, "P": None, "layers": 1, "dtype": "float32"}
    extra |= {"threads": 1, "device": "cpu", "peer": peer, "peer_version": "1.2", "ours": peer.startswith("fusedlstm")}
    return {
        "group": group or f"{kind}, B = {B}, N = I = {N}",
        "name": f"test_{kind}[{peer}]",
        "stats": stats | {"rounds": 9},
        "extra_info": extra | info,
    }


BENCHMARKS = [
    # 8 * 2 * 10 * 20 = 3200 flop in 3.2 us, and 5 * 2 * 10 = 100 evaluations in 1 us: the limit is 4.2 us
    entry("fusedlstm numpy", 8.4e-6),
    entry("torch cell", 12.6e-6),
    entry("onnx", 10.5e-6),
    entry("bare matmul", 4e-6, part=True),
    # eight times the rows, eight times the limit: 33.6 us
    entry("fusedlstm numpy", 42e-6, B=16),
    entry("torch cell", 40e-6, B=16),
    # ten steps: 42 us
    entry("fusedlstm numpy", 60e-6, kind="sequence", T=10),
    entry("torch layer", 120e-6, kind="sequence", T=10),
    entry("fusedlstm, x alone", 20e-6, kind="sequence", T=10, part=True),
    entry("fusedlstm numpy", 2e-3, kind="pack", B=None, N=None, T=None, group="pack a state"),
]
CONTENT = {
    "machine_info": {
        "facts": {
            "cpu": "Abacus 7",
            "cores": 2,
            "blas": "OpenBeads, kernel Wood",
            "versions": {"fusedlstm": "0.9", "numpy": "2.0"},
            "gpu": None,
            "missing": {"TensorFlow": "it has no wheel for <this> Python"},
            "limits": LIMITS,
        }
    },
    "commit_info": {"id": "ab" * 20, "dirty": False},
    "datetime": "2026-01-02T03:04:05",
    "benchmarks": BENCHMARKS,
}


def write(folder, content=CONTENT, name="results.json"):
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


@pytest.fixture
def markdown(tmp_path, capsys):
    """Return the Markdown report of the results above."""
    assert command.main(["report", str(write(tmp_path))]) == 0
    pages = ["report.md", *(["report.html"] if importlib.util.find_spec("markdown") else [])]
    assert capsys.readouterr().out.split() == [str(tmp_path / page) for page in pages]
    return (tmp_path / "report.md").read_text(encoding="utf-8")


def cells(text, start, after=""):
    """Return the cells of the first line with this start, after a text."""
    line = next(line for line in text[text.index(after) :].splitlines() if line.startswith(f"| {start}"))
    return [cell.strip().strip("*") for cell in line.strip("|").split("|")]


def test_figures(markdown):
    """Median, quartiles, the best peer's 10.5 us over it (a part isn't a peer), and percent of 4.2 us."""
    group, limit = "step, B = 2, N = I = 10", "4.20 µs, matmul"
    assert cells(markdown, f"{group} | fusedlstm")[1:] == [
        "fusedlstm numpy", "8.40 µs", "7.98 µs to 9.24 µs", "1.25", "onnx", "10.5 µs", "50 %", limit,
    ]  # fmt: skip
    everything = "All times (6)"
    ours = ["fusedlstm numpy", "8.40 µs", "7.98 µs to 9.24 µs", "50 %", limit]
    assert cells(markdown, f"**{group}**", everything)[1:] == ours
    assert cells(markdown, f"{group} | onnx", everything)[4:] == ["40 %", limit]
    assert cells(markdown, f"{group} | torch cell", everything)[4:] == ["33 %", limit]
    assert cells(markdown, f"{group} | bare matmul (a part of the work)", everything)[4:] == ["", ""]
    assert cells(markdown, "sequence, B = 2")[2:8] == [
        "60.0 µs", "57.0 µs to 66.0 µs", "2.00", "torch layer", "120 µs", "70 %",
    ]  # fmt: skip
    assert cells(markdown, "**pack a state")[1:] == ["fusedlstm numpy", "2.00 ms", "1.90 ms to 2.20 ms"]


def test_overview_opens_the_report(markdown):
    """Above 1, ours is faster. Without processes there is no verdict."""
    how = "fusedlstm numpy"
    lines = markdown.splitlines()
    assert lines[0] == "# Benchmarks of fusedlstm"
    assert lines[2].startswith("There are no verdicts: these times are from one process each")
    assert lines[4].startswith("| what | how | rows | median ratio | lowest ratio |")
    assert cells(markdown, "Steps") == ["Steps", how, "2", "1.10", "0.95", "step, B = 16, N = I = 10"]
    assert cells(markdown, "Sequences") == ["Sequences", how, "1", "2.00", "2.00", "sequence, B = 2, N = I = 10"]
    assert cells(markdown, "step, B = 16, N = I = 10 | fusedlstm")[4:7] == ["0.95", "torch cell", "40.0 µs"]


def in_processes(peer, median, more=0.0, **options):
    """Return a benchmark in 16 processes, of which each takes 0.1 % longer than the last."""
    one = entry(peer, median, **options)
    one["stats"]["processes"] = [median * (1 + number / 1000 + more * (number % 2)) for number in range(16)]
    return one


def test_verdicts_open_the_report(tmp_path):
    """Each way to call ours has rows of its own."""
    rows = [in_processes(*each) for each in (("fusedlstm", 2e-6), ("fusedlstm out=", 1e-6), ("torch cell", 2e-6))]
    rows += [in_processes("fusedlstm", 5e-6, B=7), in_processes("torch cell", 4e-6, B=7)]
    rows += [in_processes("fusedlstm", 5e-6, B=9), in_processes("torch cell", 3e-6, more=2.0, B=9)]
    content = CONTENT | {"benchmarks": rows}
    content["machine_info"] = {"facts": CONTENT["machine_info"]["facts"] | {"rounds": 16, "load": [0.5, 2.25, 1.0]}}
    command.main(["report", str(write(tmp_path, content))])
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    words = "faster than the fastest other library in 1 of 4 rows, slower in 1, and ties in 2."
    assert words in text.splitlines()[2]
    assert cells(text, "what")[:7] == ["what", "how", "rows", "faster", "tie", "slower", "median ratio"]
    assert cells(text, "Steps | fusedlstm |")[2:6] == ["3", "0", "2", "1"]
    assert cells(text, "Steps | fusedlstm out= |")[2:6] == ["1", "1", "0", "0"]
    assert cells(text, "step, B = 2, N = I = 10 | fusedlstm out=")[4:7] == ["2.00", "2.00 to 2.00", "faster"]
    assert cells(text, "step, B = 7, N = I = 10 | fusedlstm")[4:7] == ["0.80", "0.80 to 0.80", "slower"]
    assert cells(text, "step, B = 9, N = I = 10 | fusedlstm")[6] == "tie"
    assert "**Load average:** 0.5 to 2.25, with the benchmark itself" in text


def test_rows_without_a_peer_have_readable_names(tmp_path):
    """Names of tests are shown as words."""
    one = entry("", 1e-3, kind="once", group="once in a process: first call")
    one |= {"name": "test_first_call[cold-N128]", "extra_info": {"kind": "once", "device": "cpu", "ours": True}}
    command.main(["report", str(write(tmp_path, CONTENT | {"benchmarks": [*BENCHMARKS, one]}))])
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert cells(text, "**once in a process")[1] == "fusedlstm, first call cold-N128"
    assert "test\\_" not in text


def test_cases_are_in_the_order_of_reading(tmp_path):
    """Cases come by workload, then T, then N, and last by B. Upper case and longer names don't come first."""
    wanted = [
        "hydrology, float32: B = 1, I = 23, N = 50, 3 layers",
        "RL rollout, float32: B = 64, N = I = 128, 3% of the rows reset",
        "step, float32: B = 1, N = I = 128",
        "step, float32: B = 32, N = I = 128",
        "step, float32: B = 1024, N = I = 128",
        "step, float32: B = 1, N = I = 512",
        "step, float32: B = 32, I = 640, N = 512, P = 640",
        "step with cold caches, float32: B = 32, N = I = 512",
        "stream, float32: T = 100, B = 256, N = I = 512",
        "stream, float32: T = 1000, B = 1, N = I = 128",
    ]
    rows = [entry(peer, 1e-5, group=group) for group in sorted(wanted, key=len) for peer in ("fusedlstm numpy", "onnx")]
    command.main(["report", str(write(tmp_path, CONTENT | {"benchmarks": rows}))])
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| (.*?) \| fusedlstm numpy \| 10.0 µs", text, re.MULTILINE) == wanted


def test_report_says_what_ran_where(markdown):
    for words in (
        "**GPU:** nothing here ran on a GPU",
        "## Abacus 7, 1 thread\n",
        "Abacus 7, 2 cores",
        "OpenBeads, kernel Wood",
        "fusedlstm 0.9, numpy 2.0",
        "2026-01-02 03:04",
        "ab" * 20,
        "matmul float32 1.00 Gflop/s",
    ):
        assert words in markdown
    folded = "<summary>Not run</summary>\n\n- TensorFlow: it has no wheel for &lt;this&gt; Python\n\n</details>\n"
    assert markdown.endswith(folded)


def test_report_compares_on_each_device(tmp_path):
    """Peers must be on the same device, though one group has both."""
    content = copy.deepcopy(CONTENT)
    content["machine_info"]["facts"]["gpu"] = {"name": "Bead Mover", "driver": "1"}
    content["benchmarks"] += [
        entry("fusedlstm cuda", 1e-6, device="cuda:0"),
        entry("torch cell", 3e-6, device="cuda:0"),
    ]
    command.main(["report", str(write(tmp_path, content))])
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "nothing here ran on a GPU" not in text
    assert "**GPU:** Bead Mover, driver 1\n" in text
    assert cells(text, "step, B = 2, N = I = 10, cuda:0")[4:6] == ["3.00", "torch cell"]
    assert cells(text, "step, B = 2, N = I = 10, cpu")[4:6] == ["1.25", "onnx"]


def test_predictions_are_beside_measurements(tmp_path):
    """Rows that name their kernel have the kept prediction in microseconds, if there is one for the shape."""
    gpu = {"device": "cuda:0", "B": 32, "N": 128}
    sixteen = gpu | {"dtype": "bfloat16"}
    content = copy.deepcopy(CONTENT)
    content["benchmarks"] = [
        entry("fusedlstm Stepper", 4e-6, **sixteen),
        entry("fusedlstm Stepper, kernel=tensor_small", 5e-6, **sixteen),
        entry("fusedlstm Stepper, kernel=matmul", 2e-6, **sixteen),
        entry("fusedlstm Stepper, kernel=simt", 7e-6, **gpu | {"B": 33}),
        entry("torch cell", 9e-6, **sixteen),
        entry("torch cell", 9e-6, **gpu | {"B": 33}),
    ]
    command.main(["report", str(write(tmp_path, content))])
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    shape = {"B": 32, "I": 128, "N": 128, "P": None, "dtype": "bfloat16", "precision": "highest"}
    everything, group = "All times (6)", "step, B = 32, N = I = 128"
    column = cells(text, "case", everything).index("predicted us")
    for kernel in ("tensor_small", "matmul"):
        name = f"**{group}** | **fusedlstm Stepper, kernel={kernel}".replace("_", "\\_")
        assert cells(text, name, everything)[column] == f"{1e6 * predictions.kept(kernel, **shape):.2f}"
    others = (f"**{group}** | **fusedlstm Stepper**", f"{group} | torch cell", "**step, B = 33, N = I = 128")
    assert [cells(text, other, everything)[column] for other in others] == ["", "", ""]
    assert "**predicted us:** the GPU's microseconds, predicted by a model" in text
    # Rows with a named kernel are not compared, as users get the table's choice.
    assert cells(text, "step, B = 32, N = I = 128")[4:6] == ["2.25", "torch cell"]
    assert cells(text, "Steps, cuda:0")[2] == "1"


def test_report_without_predictions_omits_them(markdown):
    assert "predicted" not in markdown


def test_gpu_and_host_times_have_columns(tmp_path):
    """The columns appear only if there are such times."""
    both = {"gpu_seconds": {"median": 2e-6, "p10": 1e-6, "p90": 3e-6}}
    both["host_seconds"] = {"median": 7e-6, "p10": 6e-6, "p90": 8e-6}
    content = copy.deepcopy(CONTENT)
    command.main(["report", str(write(tmp_path, content))])
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "until it returns" not in text
    content["benchmarks"] = [
        entry("fusedlstm", 1e-5, device="cuda", **both),
        entry("torch cell", 2e-5, device="cuda", **both | {"gpu_seconds": None}),
        entry("jax", 3e-5, device="cuda", gpu_seconds=None, host_seconds=None),
    ]
    command.main(["report", str(write(tmp_path, content))])
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    everything, group = "All times (3)", "step, B = 2, N = I = 10"
    assert cells(text, "case", everything)[4:6] == ["GPU's own", "until it returns"]
    ours = ["2.00 µs (1.00 µs to 3.00 µs)", "7.00 µs (6.00 µs to 8.00 µs)"]
    assert cells(text, "**step", everything)[4:6] == ours
    assert cells(text, f"{group} | torch cell", everything)[4:6] == ["", "7.00 µs (6.00 µs to 8.00 µs)"]
    assert cells(text, f"{group} | jax", everything)[4:6] == ["", ""]
    assert "- **until it returns:** the CPU's time" in text


def test_pool_has_its_own_limit(tmp_path):
    """The limit counts the rows that step, plus what a pool adds."""
    pool = {"kind": "pool", "capacity": 100, "group": "pool, float32: B = 20, N = I = 10, 100 slots, 2 padding rows"}
    content = copy.deepcopy(CONTENT)
    content["benchmarks"] = [
        entry("fusedlstm pool", 84e-6, B=20, padding=2, **pool),
        entry("torch cell, gather and scatter", 126e-6, B=20, padding=2, **pool),
        entry("fusedlstm", 42e-6, B=18),
    ]
    path = write(tmp_path, content)
    rows = runs.load(path).rows
    assert rows[0].limit == rows[1].limit == rows[2].limit  # arithmetic sets it, and 18 rows step in each
    assert rows[0].work.bytes - rows[2].work.bytes == 3 * 18 * 10 * 4 + 18 * 8
    command.main(["report", str(path)])
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    pool = cells(text, "pool, float32", "### Steps of a pool")
    assert pool[2:5] == ["84.0 µs", "79.8 µs to 92.4 µs", "1.50"]
    assert pool[7] == "45 %"


def test_variants_are_named_by_their_tests(tmp_path):
    content = CONTENT | {
        "benchmarks": [entry("fusedlstm numpy", 1e-6), entry("fusedlstm numpy", 2e-6) | {"name": "out"}]
    }
    command.main(["report", str(write(tmp_path, content))])
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert cells(text, "**step, B = 2, N = I = 10** | **fusedlstm numpy \\[out")[2] == "2.00 µs"


def test_results_have_different_labels(tmp_path):
    """Labels have threads, then the commit if those are equal, then the file if all is equal."""
    two, later = copy.deepcopy(CONTENT), copy.deepcopy(CONTENT)
    for one in two["benchmarks"]:
        one["extra_info"]["threads"] = 2
    later["commit_info"] = {"id": "cd" * 20, "dirty": True}
    paths = [write(tmp_path, *what) for what in ((CONTENT,), (two, "b.json"), (later, "c.json"), (later, "d.json"))]
    assert [run.label for run in runs.load_all(paths[:2])] == ["Abacus 7, 1 thread", "Abacus 7, 2 threads"]
    a, b, c, d = (run.label for run in runs.load_all(paths))
    assert (a, b) == ("Abacus 7, 1 thread, ababababab", "Abacus 7, 2 threads")
    assert re.fullmatch(r"Abacus 7, 1 thread, cdcdcdcdcd, with changes, .*, c\.json", c)
    assert d == c.replace("c.json", "d.json")


class Page(HTMLParser):
    """A page's open tags, images and references. Raises if a tag closes another."""

    def __init__(self, text):
        super().__init__()
        self.open, self.images, self.references, self.text = [], [], [], ""
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.references += [value for name, value in attrs.items() if name in {"src", "href", "srcset", "data"}]
        self.images += [attrs["src"]] if tag == "img" else []
        assert tag not in {"link", "script", "iframe"}
        if tag not in {"meta", "img", "br"}:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


@needs_markdown
def test_page_has_the_same_figures(markdown, tmp_path):
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    for words in ("nothing here ran on a GPU", "8.40 µs", "1.25", "50 %", "ab" * 20, "no wheel for <this> Python"):
        assert words in page.text


@needs_markdown
@needs_matplotlib
def test_pictures_are_in_the_page(markdown, tmp_path):
    """Each picture is a .png and an .svg file, and in the page, which loads nothing."""
    names = re.findall(r"!\[[^]]+\]\(pictures/([^)]+)\.png\)", markdown)
    start = "1-step-1-float32-cpu-1-thread-"
    assert names == [f"{start}n-i-10", f"{start}roofline", f"{start}speedup", "1-sequence-1-sequence-b-2-n-i-10"]
    files = {path.name for path in (tmp_path / "pictures").iterdir()}
    assert files == {f"{name}.{suffix}" for name in names for suffix in ("png", "svg")}
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    assert len(page.images) == len(names)
    assert page.references == page.images
    assert "@import" not in text
    assert "url(" not in text
    for image in page.images:
        start, data = image.split(",")
        assert start == "data:image/svg+xml;base64"
        root = ET.fromstring(base64.b64decode(data))
        links = [value for one in root.iter() for name, value in one.attrib.items() if name.endswith(("href", "src"))]
        assert all(link.startswith("#") for link in links)
        assert "prefers-color-scheme:dark" in root[0].text


@needs_matplotlib
def test_pictures_are_reproducible(tmp_path):
    """The same results give the same files."""
    for folder in ("a", "b"):
        command.main(["report", str(write(tmp_path)), "--out", str(tmp_path / folder)])
    files = sorted((tmp_path / "a").rglob("*.*"))
    assert len(files) > 8
    for path in files:
        assert path.read_bytes() == (tmp_path / "b" / path.relative_to(tmp_path / "a")).read_bytes()


@needs_matplotlib
def test_older_pictures_are_deleted(markdown, tmp_path):
    """An earlier report's pictures are deleted, but not other files in the folder."""
    folder = tmp_path / "pictures"
    (folder / "mine.png").write_bytes(b"")
    before = {path.name for path in folder.iterdir()}
    command.main(["report", str(write(tmp_path, CONTENT | {"benchmarks": BENCHMARKS[:2]}))])
    assert "mine.png" in (after := {path.name for path in folder.iterdir()}) < before
    assert not any("sequence" in name for name in after)


@needs_matplotlib
def test_pictures_of_many_peers_and_few_rows(tmp_path):
    """Long names, missing cells, one batch and no limits don't fail, and empty pictures are not drawn."""
    names = [f"peer number {index} with a name that goes on and on" for index in range(12)]
    many = [entry(name, 1e-5 * B, B=B) for name in ["fusedlstm numpy", *names] for B in (1, 31, 32, 16384)]
    many += [entry("fusedlstm numpy", 1e-4, N=2048, P=640, layers=2, B=7), entry(names[0], 1e-4, kind="sequence")]
    content = CONTENT | {"benchmarks": many[1:], "machine_info": {}}
    paths = [
        write(tmp_path, content, "many.json"),
        write(tmp_path, CONTENT | {"benchmarks": [entry("a", 1.0)]}, "one.json"),
    ]
    assert command.main(["report", *map(str, paths)]) == 0
    assert "unknown machine" in (tmp_path / "report.md").read_text(encoding="utf-8")


def test_report_without_libraries(tmp_path, monkeypatch):
    monkeypatch.setattr(report.importlib.util, "find_spec", lambda name: None)
    assert command.main(["report", str(write(tmp_path))]) == 0
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "There are no pictures, because matplotlib is not installed" in text
    assert "8.40 µs" in text
    assert not (tmp_path / "pictures").exists()
    assert not (tmp_path / "report.html").exists()


def damaged(**changes):
    """Return the results with a single, changed entry."""
    one = copy.deepcopy(BENCHMARKS[0])
    for key, value in changes.items():
        one[key] = value
    return CONTENT | {"benchmarks": [one]}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "not JSON, or not all of it"),
        (json.dumps(CONTENT)[:-100], "not JSON, or not all of it"),
        ("[]", "not a result of this suite"),
        ("{}", "not a result of this suite ('machine_info' is missing)"),
        (CONTENT | {"benchmarks": []}, "it has no benchmarks"),
        (damaged(extra_info={}), "none of its benchmarks is of this suite"),
        (damaged(stats={}), "not a result of this suite ('median' is missing)"),
        (damaged(stats={"median": "soon"}), "not a result of this suite"),
        (damaged(stats={"median": float("nan")}), "has no time"),
        (damaged(stats={"median": 0}), "has no time"),
        (
            CONTENT | {"machine_info": {"facts": {"limits": {"cpu": {}}}}},
            "not a result of this suite ('copy' is missing)",
        ),
    ],
)
def test_bad_results_are_refused(content, words, tmp_path, capsys):
    path = write(tmp_path, content)
    assert command.main(["report", str(path)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"python -m benchmarks: {path}: {words}") or (path.name in line and words in line)
    assert [one.name for one in tmp_path.iterdir()] == ["results.json"], "something was written"


def test_missing_results_are_refused(tmp_path, capsys):
    assert command.main(["report", str(tmp_path / "none.json")]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "none.json: can't be read: " in line


def test_deciles_are_kept():
    """Deciles replace up to ten thousand times of a row."""
    content = copy.deepcopy(CONTENT)
    content["benchmarks"] = [copy.deepcopy(BENCHMARKS[0])]
    stats = content["benchmarks"][0]["stats"]
    stats["data"] = [float(value) for value in range(101)]
    runs.keep_deciles(content)
    assert (stats["p10"], stats["p90"]) == (10.0, 90.0)
    assert "data" not in stats


@pytest.mark.parametrize("how", ["times", "kept", "quartiles"])
def test_spread_is_named(how, tmp_path):
    content = copy.deepcopy(CONTENT)
    content["benchmarks"] = [copy.deepcopy(BENCHMARKS[0])]
    if how != "quartiles":
        content["benchmarks"][0]["stats"]["data"] = [index * 1e-6 for index in range(1, 12)]
    if how == "kept":
        runs.keep_deciles(content)
    command.main(["report", str(write(tmp_path, content))])
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    header, ours = cells(text, "case"), cells(text, "**step")
    spread = ("quartiles", "7.98 µs to 9.24 µs") if how == "quartiles" else ("p10 to p90", "2.00 µs to 10.0 µs")
    assert (header[3], ours[3]) == spread


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1.234e-5, "12.3 µs"),
        (9.996e-4, "1.00 ms"),
        (0.0999, "99.9 ms"),
        (1.0, "1.00 s"),
        (123.4, "123 s"),
        (5e-12, "5.00 ps"),
        (5e-14, "0.05 ps"),
        (2.5e13, "25.0 Ts"),
        (0, "0 s"),
    ],
)
def test_quantities(value, text):
    assert quantity(value, "s") == text


def test_ratios_and_order():
    assert [percent(value) for value in (0.0123, 0.0996, 0.5, 1.04)] == ["1.2 %", "10 %", "50 %", "104 %"]
    assert [ratio(value) for value in (0.333, 9.996, 99.96)] == ["0.33", "10.0", "100"]
    assert sorted(["B = 256", "B = 32", "B = 4"], key=natural) == ["B = 4", "B = 32", "B = 256"]
