"""The report as its reader meets it: opened from disk in headless Chromium, without a network."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# The rules and captions of the real workflow, on result files that are there already.
SNAKEFILE = """
config |= {{
    "results": "results",
    "experiments": ["species", "speech"],
    "stores": ["lambda_consensus"],
    "tasks": {{}},
    "variants": {{}},
    "container": "none.sif",
}}


report: "{root}/workflows/report/workflow.rst"


include: "{root}/workflows/rules/common.smk"
include: "{root}/workflows/rules/report.smk"


rule all:
    default_target: True
    input:
        rules.summary.output,
"""


@pytest.fixture(scope="session")
def report(chromium: None, tmp_path_factory: pytest.TempPathFactory, results: Path, config_dir: Path) -> Path:
    """The report that SSM_SEQ_REPORT names, else one that Snakemake makes here of small result files."""
    if named := os.environ.get("SSM_SEQ_REPORT"):
        path = Path(named) if Path(named).is_absolute() else ROOT / named
        assert path.is_file(), f"SSM_SEQ_REPORT names {path}, which does not exist"
        return path
    folder = tmp_path_factory.mktemp("workflow")
    (folder / "results").symlink_to(results)
    (folder / "config").symlink_to(config_dir)
    (folder / "Snakefile").write_text(SNAKEFILE.format(root=ROOT))
    snakemake = [sys.executable, "-m", "snakemake", "--cores", "1", "--quiet", "all"]
    style = ["--report-stylesheet", str(ROOT / "workflows/report/report.css")]
    for arguments in ([], ["--report", "report.html", *style]):
        done = subprocess.run(
            [*snakemake, *arguments], cwd=folder, capture_output=True, text=True, timeout=240
        )
        assert done.returncode == 0, done.stdout + done.stderr
    return folder / "report.html"


def result_paths(browser: object, kind: str) -> list[str]:
    """The paths of the results of a MIME type that the report holds."""
    return browser.execute_script(
        "return Object.keys(results).filter(path => results[path].mime_type === arguments[0])", kind
    )


def show(browser: object, path: str, content: str) -> None:
    """What the eye beside a result does when it is clicked."""
    view = "{content: arguments[1], contentPath: results[arguments[0]].data_uri, resultPath: arguments[0]}"
    browser.execute_script(f"app.setView({view})", path, content)


@contextmanager
def page_of(browser: object, path: str) -> Iterator[None]:
    """Inside the frame in which the report shows an HTML result."""
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    show(browser, path, "html")
    wait = WebDriverWait(browser, 60)
    browser.switch_to.frame(wait.until(lambda b: b.find_element(By.TAG_NAME, "iframe")))
    try:
        wait.until(lambda b: b.find_elements(By.CSS_SELECTOR, "main h1"))
        yield
    finally:
        browser.switch_to.default_content()


def complaints(browser: object) -> list[str]:
    return [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]


@pytest.mark.slow
def test_report_opens_with_plots_and_players_and_without_complaint(browser: object, report: Path) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    wait = WebDriverWait(browser, 60)
    browser.get(report.as_uri())
    wait.until(lambda b: b.find_elements(By.CSS_SELECTOR, "nav"))

    pictures = result_paths(browser, "image/svg+xml")
    assert {"loss.svg", "confusion.svg", "timings.svg", "sounds.svg"} <= {
        Path(path).name for path in pictures
    }
    picture = "[...document.images].find(image => image.src === results[arguments[0]].data_uri)"
    width = f"const found = {picture}; return found && found.naturalWidth"
    for path in pictures:
        show(browser, path, "img")
        assert wait.until(lambda b, path=path: b.execute_script(width, path)) > 100, path

    pages = result_paths(browser, "text/html")
    assert any(path.endswith("summary.html") for path in pages)
    players = 0
    for path in pages:
        with page_of(browser, path):
            assert browser.find_elements(By.CSS_SELECTOR, "figure svg"), f"{path} has no plot"
            sounds = browser.find_elements(By.TAG_NAME, "audio")
            for sound in sounds:
                wait.until(
                    lambda b, sound=sound: b.execute_script("return arguments[0].readyState >= 1", sound)
                )
                assert browser.execute_script("return arguments[0].duration", sound) > 0.1, path
            players += len(sounds)
    assert players >= 2

    assert complaints(browser) == []


@pytest.mark.slow
def test_report_opens_with_the_summary_and_leads_back_to_it(browser: object, report: Path) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    wait = WebDriverWait(browser, 60)

    def summary_is_shown() -> bool:
        browser.switch_to.frame(wait.until(lambda b: b.find_element(By.TAG_NAME, "iframe")))
        title = wait.until(lambda b: b.find_elements(By.CSS_SELECTOR, "main h1"))[0].text
        browser.switch_to.default_content()
        return "Summary" in title

    browser.get(report.as_uri())
    assert summary_is_shown()
    browser.find_element(By.XPATH, "//nav//span[text()='Workflow']").click()
    wait.until(lambda b: b.find_elements(By.CSS_SELECTOR, "#brand"))
    assert "State-space models" in browser.find_element(By.CSS_SELECTOR, ".prose h1").text
    assert not browser.find_elements(By.TAG_NAME, "iframe")
    browser.find_element(By.CSS_SELECTOR, "a.page").click()
    assert summary_is_shown()


def test_browser_sees_a_page_that_complains(browser: object, tmp_path: Path) -> None:
    """The check above can fail: an error on a page reaches it."""
    page = tmp_path / "bad.html"
    page.write_text("<!doctype html><link rel=icon href=data:,><script>undefinedFunction()</script>")
    browser.get(page.as_uri())
    assert any("undefinedFunction" in message for message in complaints(browser))
