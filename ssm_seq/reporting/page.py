"""The figures of one experiment and its page, from its result files.

    python -m ssm_seq.reporting.page --folder results/species --store results/stores/genomes \
        --benchmarks results/benchmarks --figures results/species/figures --out results/species/page.html \
        experiment=species

A figure whose inputs don't exist is not made. The same files give the same bytes.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from ssm_seq.config import compose
from ssm_seq.errors import InputError
from ssm_seq.files import whole_directory, whole_file
from ssm_seq.reporting import facts
from ssm_seq.reporting.panels import Panel, generated_text, panels, sounds_of
from ssm_seq.reporting.results import Results, read_results
from ssm_seq.reporting.sounds import Sound
from ssm_seq.reporting.style import themed


def write_page(results: Results, figures: Path, out: Path) -> None:
    """Write the figures as `figures`/NAME.svg and the page, which holds all it shows, as `out`."""
    sounds = sounds_of(results)
    shown = panels(results, sounds)
    with whole_directory(figures, "*.svg") as folder:
        for panel in shown:
            (folder / f"{panel.name}.svg").write_text(panel.svg)
    with whole_file(out) as partial:
        partial.write_text(render_page(results, shown, sounds))


def render_page(results: Results, shown: Sequence[Panel], sounds: Sequence[Sound]) -> str:
    """The page of an experiment as HTML."""
    figure, sentence = facts.headline(results)
    return (
        templates()
        .get_template("page.html.jinja")
        .render(
            name=results.name,
            title=results.title,
            figure=figure,
            sentence=sentence,
            remarks=facts.remarks(results),
            resampled=results.resampled,
            results=facts.result_table(results),
            panels=shown,
            sounds=sounds,
            texts=generated_text(results),
            consensus=facts.consensus_table(results),
            mismatches=facts.mismatch_table(results),
            data=facts.data_table(results),
            configuration=facts.configuration(results),
            sources=facts.sources(results),
            training=facts.training(results),
        )
    )


def templates() -> Environment:
    """The project's HTML templates; text is escaped, and a missing value is an error."""
    environment = Environment(
        loader=PackageLoader("ssm_seq.reporting", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters["inline"] = lambda svg, prefix: Markup(themed(svg, prefix))
    return environment


def main(arguments: Sequence[str] | None = None) -> int:
    """0 when the page was written, 2 for bad input."""
    parser = argparse.ArgumentParser(
        prog="python -m ssm_seq.reporting.page", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--folder", type=Path, required=True, help="the experiment's result folder")
    parser.add_argument("--store", type=Path, required=True, help="its byte store")
    parser.add_argument(
        "--benchmarks", type=Path, required=True, help="Snakemake's benchmark files, RULE/NAME.tsv"
    )
    parser.add_argument("--figures", type=Path, required=True, help="folder for the SVG files")
    parser.add_argument("--out", type=Path, required=True, help="the HTML page")
    parser.add_argument("--config-dir", type=Path, default="config", help="Hydra tree")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="Hydra overrides")
    options = parser.parse_args(arguments)
    try:
        config = compose(options.overrides, options.config_dir)
        results = read_results(options.folder, options.store, options.benchmarks, config)
        write_page(results, options.figures, options.out)
    except InputError as error:
        print(f"page: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
