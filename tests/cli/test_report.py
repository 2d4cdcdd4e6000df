import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from monai_lgg.cli.options import ErrorGroup
from monai_lgg.cli.report import explore, report
from monai_lgg.phantom import write_patients


@click.group(cls=ErrorGroup)
def group() -> None:
    """Like the whole command."""


group.add_command(report)
group.add_command(explore)


def test_report_passes_its_options_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from monai_lgg.report import run_report

    calls = []
    monkeypatch.setattr(run_report, "write_report", lambda *arguments: calls.append(arguments) or Path("x.html"))
    result = CliRunner().invoke(group, ["report", "RUN"])
    assert result.output == "page: x.html\n"
    CliRunner().invoke(group, ["report", "RUN", "--data", "D", "--part", "validation", "-o", "p.html"])
    assert calls == [
        (Path("RUN"), None, None, "test"),
        (Path("RUN"), Path("p.html"), Path("D"), "validation"),
    ]


def test_report_without_evaluation(tmp_path: Path) -> None:
    result = CliRunner().invoke(group, ["report", str(tmp_path)])
    assert result.exit_code == 1
    assert result.output.startswith("Error: no results at")
    assert "monai-lgg evaluate" in result.output


def test_report_of_no_folder(tmp_path: Path) -> None:
    result = CliRunner().invoke(group, ["report", str(tmp_path / "absent")])
    assert result.exit_code == 1
    assert "give a run of monai-lgg train" in result.output


def test_unknown_part(tmp_path: Path) -> None:
    assert CliRunner().invoke(group, ["report", str(tmp_path), "--part", "tests"]).exit_code == 2


def test_explore(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from monai_lgg.report import data_report
    from monai_lgg.report.page import Picture

    monkeypatch.setattr(data_report, "chart", lambda figure, alt, caption="": Picture("data:", alt))  # takes long
    write_patients(tmp_path / "data", 2, seed=3, size=(32, 40), slices=2)
    page = tmp_path / "page.html"
    result = CliRunner().invoke(group, ["explore", str(tmp_path / "data"), "-o", str(page), "--quiet"])
    assert result.exit_code == 0, result.output
    assert result.output == f"page: {page}\n"
    assert "32 x 40" in page.read_text()


def test_explore_nothing(tmp_path: Path) -> None:
    result = CliRunner().invoke(group, ["explore", str(tmp_path), "-o", str(tmp_path / "page.html")])
    assert result.exit_code == 1
    assert "no patient folders in the layout" in result.output
    assert not (tmp_path / "page.html").exists()


def test_explore_does_not_replace_other_files(tmp_path: Path) -> None:
    (tmp_path / "split.json").write_text("precious")
    result = CliRunner().invoke(group, ["explore", str(tmp_path), "-o", str(tmp_path / "split.json")])
    assert result.exit_code == 2
    assert "give a name that ends in .html" in result.output
    assert (tmp_path / "split.json").read_text() == "precious"


@pytest.mark.parametrize("command", ["report", "explore"])
def test_help_loads_nothing_heavy(command: str) -> None:
    code = (
        "import sys\n"
        "from click.testing import CliRunner\n"
        f"from monai_lgg.cli.report import {command}\n"
        f"result = CliRunner().invoke({command}, ['--help'])\n"
        "assert result.exit_code == 0 and 'Usage' in result.output, result.output\n"
        "assert not {'torch', 'monai', 'matplotlib', 'scipy', 'jinja2', 'tifffile'} & set(sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
