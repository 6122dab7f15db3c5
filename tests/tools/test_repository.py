"""The files that people expect of a repository say the same as the package."""

import tomllib

import pytest

import fusedlstm

from support.places import ROOT

yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
pytestmark = pytest.mark.skipif(not (ROOT / ".github").is_dir(), reason="these tests need a checkout")

WORKFLOWS = {"ci": "bash .ci/run", "nightly": "bash .ci/run nightly"}


def load(path):
    return yaml.safe_load((ROOT / path).read_text(encoding="utf-8"))


def workflow(name):
    """Return a workflow. Its key `on` is a bool in YAML 1.1."""
    return {"on" if key is True else key: value for key, value in load(f".github/workflows/{name}.yml").items()}


def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.mark.parametrize("name", WORKFLOWS)
def test_workflow_runs_the_ci_script(name):
    found = workflow(name)
    (job,) = found["jobs"].values()
    assert [step["run"] for step in job["steps"] if "run" in step] == [WORKFLOWS[name]]
    assert found["permissions"] == {"contents": "read"}
    assert job["timeout-minutes"]
    assert found["concurrency"]["group"]
    actions = {step["uses"].partition("@")[0]: step for step in job["steps"] if "uses" in step}
    assert actions["actions/setup-python"]["with"]["python-version"] == "3.12"
    assert actions["actions/checkout"]["with"]["fetch-depth"] == 0


def test_workflows_start_when_they_should():
    assert {path.stem for path in (ROOT / ".github" / "workflows").iterdir()} == set(WORKFLOWS)
    assert set(workflow("ci")["on"]) == {"push", "pull_request"}
    assert set(workflow("nightly")["on"]) == {"schedule", "workflow_dispatch"}


def test_pre_commit_has_the_linters_of_dev():
    wanted = {*project()["optional-dependencies"]["dev"], *project()["dependencies"]}
    hooks = [hook for repo in load(".pre-commit-config.yaml")["repos"] for hook in repo["hooks"]]
    assert {hook["id"] for hook in hooks} == {"ruff-check", "ruff-format", "clang-format", "mypy"}
    for hook in hooks:
        assert set(hook["additional_dependencies"]) <= wanted, hook["id"]
        assert any(needed.startswith(f"{hook['entry'].split()[0]}==") for needed in hook["additional_dependencies"])


def test_citation_agrees_with_the_package():
    citation = load("CITATION.cff")
    assert citation["version"] == fusedlstm.__version__
    assert citation["cff-version"] == "1.2.0"
    assert citation["license"] == project()["license"]
    assert citation["authors"] == project()["authors"]
    assert {"message", "title"} <= set(citation)


def test_issue_forms():
    """GitHub ignores a form without these keys."""
    forms = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").iterdir())
    assert [path.stem for path in forms] == ["bug", "feature"]
    for path in forms:
        form = load(path)
        assert {"name", "description", "body"} <= set(form)
        ids = [field["id"] for field in form["body"] if field["type"] != "markdown"]
        assert len(ids) == len(set(ids))
        assert all(field["attributes"].get("label") or field["type"] == "markdown" for field in form["body"])
    assert "`fusedlstm info`" in forms[0].read_text(encoding="utf-8")
