"""Generation against the batch, of made-up records and as it lies beside the measured ones."""

import json
import runpy
from pathlib import Path

from ssm_seq.benchmark.decode_cases import GPU_CASES, THEIR_CASES
from ssm_seq.reporting.style import to_svg

FOLDER = Path(__file__).parents[2] / "docs/results"
SCRIPT = FOLDER / "decode_by_batch.py"


def test_every_model_and_peer_has_its_line():
    records = [
        {"name": case.name, "value": 100.0 * case.count, "peer_value": case.peer} for case in GPU_CASES
    ]
    names = [f"{case.name}, transformers' generate" for case in THEIR_CASES]
    records += [{"name": name, "value": 3.0 + number} for number, name in enumerate(names)]
    draw = runpy.run_path(str(SCRIPT))["by_batch"]
    [axes] = draw(records).axes
    lines = {line.get_label(): line.get_xdata() for line in axes.get_lines()}
    assert list(lines["Mamba 8 x 256"]) == [1, 4, 16, 64, 256, 1024]
    assert list(lines["S4D 8 x 256"]) == [1, 16, 64, 256, 1024]
    assert list(lines["transformers, 8 x 256"]) == [1, 16, 64, 256, 1024]
    assert {"Mamba 12 x 512", "Mamba 48 x 1024", "mamba-ssm, recorded"} <= lines.keys()


def test_it_is_up_to_date():
    records = json.loads((FOLDER / "decode_h100.json").read_text())["records"]
    drawn = to_svg(runpy.run_path(str(SCRIPT))["by_batch"], records)
    assert drawn == (FOLDER / "decode_by_batch.svg").read_text(), "python docs/results/decode_by_batch.py"
