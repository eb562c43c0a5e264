"""The page "From SSM to Mamba" is what its script writes, and its numbers are what they should be."""

import re
import runpy
import sys
from pathlib import Path

import pytest

from ssm_seq.reporting.walkthrough import below, page

DOCS = Path(__file__).parents[2] / "docs"
PAGE = "from_ssm_to_mamba.md"


@pytest.fixture(scope="module")
def walk(tmp_path_factory):
    """The folder that the script wrote into, and its variables. What it times is timed on smaller systems."""
    folder = tmp_path_factory.mktemp("walk")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(DOCS))
        import from_ssm_to_mamba_figures as figures

        timed = figures.kernel_seconds
        patch.setattr(figures, "kernel_seconds", lambda N, L: timed(4, N + L // 64))
        patch.setattr(sys, "argv", ["from_ssm_to_mamba.py", str(folder)])
        return folder, runpy.run_path(str(DOCS / "from_ssm_to_mamba.py"), run_name="__main__")


def test_the_committed_page_is_what_the_script_writes(walk):
    written = (walk[0] / PAGE).read_text()
    assert written == (DOCS / PAGE).read_text(), "run python docs/from_ssm_to_mamba.py"


def test_the_numbers_are_those_of_the_thesis(walk):
    _, names = walk
    for error, bound in zip(names["rmse"], [7e-4, 1.4e-3, 2.6e-3, 2.1e-2], strict=True):
        assert 1e-4 < error <= bound
    expected = {"forward_euler": 1, "backward_euler": 1, "bilinear": 2, "zero_order_hold": 2}
    assert names["order"] == pytest.approx(expected, abs=0.02)
    errors = list(names["without_P"].values())
    assert errors == sorted(errors, reverse=True) and errors[-1] < 0.005
    assert names["best_average"] > 0.9


def test_links_and_figures_exist(walk):
    text = (DOCS / PAGE).read_text()
    links = {link for link in re.findall(r"\]\(([^)]+)\)", text) if not link.startswith("#")}
    assert {path.name for path in (walk[0] / "figures").iterdir()} == {
        Path(link).name for link in links if link.startswith("figures/")
    }
    assert not [link for link in links if not (DOCS / link).exists()]
    anchors = {
        re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-")
        for title in re.findall("^## (.+)", text, re.M)
    }
    assert {link[2:-1] for link in re.findall(r"\(#[^)]+\)", text)} == anchors


def test_names_of_the_table_exist():
    import ssm_seq.kernels
    import ssm_seq.layers
    import ssm_seq.ssm

    table = (DOCS / PAGE).read_text().split("## 9. ")[1]
    names = {name.rpartition(".")[2] for name in re.findall(r"`([\w.]+)`", table)} - {"ssm"}
    homes = (ssm_seq.ssm, ssm_seq.layers, ssm_seq.kernels)
    assert len(names) > 20
    assert not [name for name in names if not any(name in home.__all__ for home in homes)]


def test_cells_become_a_page():
    source = '"""Not shown."""\n# %% [markdown]\n# # Sum\n#\n# It is {x:.1f}.\n\n# %%\nx = {1: 2.0}[1]\n\n\n'
    assert page(source + "# %% figure\ndraw()\n", {"x": 2.0}) == (
        "# Sum\n\nIt is 2.0.\n\n```python\nx = {1: 2.0}[1]\n```\n"
    )
    with pytest.raises(KeyError):
        page(source, {})
    with pytest.raises(ValueError, match=r"cell 'picture': expected \[markdown\], figure or nothing"):
        page("# %% picture\n", {})


def test_a_bound_that_does_not_hold_is_no_text():
    assert below(3e-13, 1e-12) == "less than 1e-12" and below(0.0, 1e-9) == "less than 1e-9"
    for error in (1e-9, float("nan")):
        with pytest.raises(ValueError, match="expected less than 1e-12"):
            below(error, 1e-12)
