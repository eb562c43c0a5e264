"""One page over all experiments: for each the figure that counts and the pictures to look at first.

python -m ssm_seq.reporting.summary --results results --out results/summary.html species language speech
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ssm_seq.config import compose
from ssm_seq.errors import InputError
from ssm_seq.files import whole_file
from ssm_seq.reporting import facts, wording
from ssm_seq.reporting.page import templates
from ssm_seq.reporting.panels import panels, sounds_of, timings_panel
from ssm_seq.reporting.results import Results, read_results, read_steps

# Those of an experiment's figures that its section here shows.
_FIRST = ("accuracy_by_length", "whole_pass", "bits_per_byte", "sounds", "consensus")


def write_summary(experiments: Sequence[Results], benchmarks: Path, out: Path) -> None:
    """Write the page over `experiments`, in their order, as `out`."""
    pages = []
    for results in experiments:
        sounds = sounds_of(results)
        figure, sentence = facts.headline(results)
        pages.append(
            {
                "name": results.name,
                "title": results.title,
                "figure": figure,
                "sentence": sentence,
                "remarks": facts.remarks(results),
                "panels": [panel for panel in panels(results, sounds) if panel.name in _FIRST],
                "sounds": sounds,
            }
        )
    names = [name for results in experiments for name in (results.store.path.name, results.name)]
    steps = read_steps(benchmarks, names)
    stores = {results.store.path.name: results.store for results in experiments}
    rows = [
        [name, wording.count(len(store.records)), wording.size(len(store.data)), store.checksum[:16]]
        for name, store in stores.items()
    ]
    html = (
        templates()
        .get_template("summary.html.jinja")
        .render(
            title="Summary of the experiments",
            pages=pages,
            timings=timings_panel(steps) if steps else None,
            stores=facts.Table(["", "records", "size", "sha256"], rows),
        )
    )
    with whole_file(out) as partial:
        partial.write_text(html)


def main(arguments: Sequence[str] | None = None) -> int:
    """0 when the page was written, 2 for bad input."""
    parser = argparse.ArgumentParser(
        "python -m ssm_seq.reporting.summary", description=__doc__.splitlines()[0]
    )
    parser.add_argument(
        "--results", type=Path, required=True, help="folder with stores/, benchmarks/, experiments"
    )
    parser.add_argument("--out", type=Path, required=True, help="the HTML page")
    parser.add_argument("--config-dir", type=Path, default="config", help="Hydra tree")
    parser.add_argument("experiments", nargs="+", help="in the order of the page")
    options = parser.parse_args(arguments)
    folder, benchmarks = options.results, options.results / "benchmarks"
    try:
        experiments = []
        for name in options.experiments:
            config = compose([f"experiment={name}"], options.config_dir)
            store = folder / "stores" / config.data.store.name
            experiments.append(read_results(folder / name, store, benchmarks, config))
        write_summary(experiments, benchmarks, options.out)
    except InputError as error:
        print(f"summary: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
