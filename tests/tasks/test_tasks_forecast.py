"""A series is cut in time, and its forecasts are relative to the last known value."""

from pathlib import Path

import numpy as np
import pytest
import torch

from ssm_seq.config import compose
from ssm_seq.errors import InputError
from ssm_seq.tasks.forecast import Forecast
from ssm_seq.tasks.task import numbered_generator


def write(path, values):
    path.write_text("time,level\n" + "".join(f"{time},{value}\n" for time, value in enumerate(values)))
    return path


@pytest.fixture
def ramp(tmp_path):
    """100 values that grow by 3 or by 1, in turn; the unit of a horizon of 4 is then 2."""
    return Forecast(write(tmp_path / "ramp.csv", np.cumsum([1, 3] * 50)), "level", horizon=4)


@pytest.mark.parametrize(("split", "low", "high"), [("train", 0, 70), ("valid", 70, 80), ("test", 80, 100)])
def test_no_sequence_leaves_its_part(ramp, split, low, high):
    windows = ramp._windows(split, 5, torch.device("cpu"))
    assert len(windows) == high - low - 8
    values = np.cumsum([1, 3] * 50)
    assert (windows[0, 0], windows[-1, -1]) == (values[low], values[high - 1])


def test_answers_are_what_follows_in_units_of_a_random_walk(ramp):
    inputs, answers = ramp.draw("train", 20, 5, numbered_generator(0, "train", 0, "cpu"))
    assert inputs.shape == (20, 5, 1) and answers.shape == (20, 1, 4)
    assert (inputs[:, -1] == 0).all()
    starts_with_one = (inputs[:, -1] - inputs[:, -2])[:, 0] > 1  # a step of 3 came last
    expected = (
        torch.where(starts_with_one[:, None], torch.tensor([1, 4, 5, 8]), torch.tensor([3, 4, 7, 8])) / 2
    )
    torch.testing.assert_close(answers[:, 0], expected, rtol=1e-3, atol=0)  # 69 steps: half but one


def test_the_simple_rule_repeats_a_season_with_its_drift(ramp):
    inputs, answers = ramp.draw("train", 20, 5, numbered_generator(0, "train", 0, "cpu"))
    name, said = ramp.simple_answers(inputs)
    assert "season" in name
    torch.testing.assert_close(said, answers)  # the ramp has a season of 2, hence of 4
    assert ramp.simple_answers(inputs[:, :4])[1].shape == answers.shape


def test_the_test_part_comes_once_and_in_order(ramp):
    batches = list(ramp.test(100, 5, 5, 0, "cpu"))
    assert [len(batch.inputs) for batch in batches] == [5, 5, 2]
    some = list(ramp.test(6, 100, 5, 0, "cpu"))
    assert len(some) == 1 and len(some[0].inputs) == 6


def test_gaps_are_filled_and_bad_files_are_said_plainly(tmp_path):
    path = write(tmp_path / "gaps.csv", ["", 1, "", 3, "nan", 5, *range(6, 40)])
    task = Forecast(path, "level", 2)
    assert task._values[:6].tolist() == [1, 1, 2, 3, 4, 5]
    for task, said in (
        (Forecast(path, "levle", 2), "no column 'levle'"),
        (Forecast(tmp_path / "none.csv", "level", 2), "can't be read"),
        (Forecast(write(tmp_path / "text.csv", ["high"]), "level", 2), "could not convert"),
        (Forecast(write(tmp_path / "empty.csv", [""]), "level", 2), "has no value"),
        (Forecast(path, "level", 30), "length 5"),
    ):
        with pytest.raises(InputError, match=said):
            task.draw("train", 1, 5, torch.Generator())


def test_the_experiment_fits_into_every_part_of_its_series(tmp_path):
    config = compose(["experiment=forecast"], Path(__file__).parents[2] / "config")
    series = write(tmp_path / "weekly.csv", np.arange(2284))  # weeks from 1958 to 2001
    task, (length,) = Forecast(series, "level", config.task.horizon), config.evaluate.lengths
    assert length == config.data.window
    for split in ("train", "valid", "test"):
        assert len(task.draw(split, 3, length, numbered_generator(0, split, 0, "cpu")).inputs) == 3
