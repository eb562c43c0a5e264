"""What the tasks draw: the right answers, every place, the same batch from the same number."""

import pytest
import torch

from ssm_seq.config import Config, TaskConfig
from ssm_seq.errors import InputError
from ssm_seq.tasks import task_of
from ssm_seq.tasks.copying import Copying
from ssm_seq.tasks.induction import InductionHeads
from ssm_seq.tasks.task import numbered_generator

drawn_tasks = pytest.mark.parametrize("name", ["copying", "selective_copying", "induction_heads"])


def draw(task, count, length, number=0, split="train"):
    return task.draw(split, count, length, numbered_generator(3, split, number, "cpu"))


@pytest.mark.parametrize("scattered", [True, False])
def test_copying_asks_for_the_tokens_in_their_order(scattered):
    task = Copying(symbols=5, memorise=4, scattered=scattered)
    inputs, answers = draw(task, 300, 9)
    assert inputs.shape == (300, 13) and answers.shape == (300, 4)
    for row, expected in zip(inputs.tolist(), answers.tolist(), strict=True):
        assert [symbol for symbol in row[:9] if symbol < 5] == expected
        assert row[9:] == 4 * [task.marker]
        assert sorted(set(row[:9]) - set(range(5))) == [task.noise]
    assert set(answers.flatten().tolist()) == set(range(5))
    places = (inputs[:, :9] < 5).float().mean(0)
    if scattered:
        assert ((places - 4 / 9).abs() < 0.12).all()  # three standard deviations and a half
    else:
        assert places.tolist() == 4 * [1] + 5 * [0]


def test_an_induction_head_is_asked_for_what_followed_the_special_token():
    task = InductionHeads(symbols=4)
    inputs, answers = draw(task, 500, 7)
    firsts = []
    for row, (answer,) in zip(inputs.tolist(), answers.tolist(), strict=True):
        assert row[-1] == task.special and row.count(task.special) == 2
        firsts.append(row.index(task.special))
        assert row[firsts[-1] + 1] == answer < task.special
    assert set(firsts) == set(range(5)) and set(answers.flatten().tolist()) == set(range(4))


@drawn_tasks
def test_a_batch_follows_from_seed_split_and_number(name):
    task = task_of(Config(task=TaskConfig(name)))
    first = draw(task, 4, 40)
    for again, same in (
        (draw(task, 4, 40), True),
        (draw(task, 4, 40, 1), False),
        (draw(task, 4, 40, 0, "valid"), False),
    ):
        assert torch.equal(first.inputs, again.inputs) == same
    assert int(first.inputs.max()) < task.vocab_size


@drawn_tasks
def test_the_test_sequences_come_in_batches(name):
    task = task_of(Config(task=TaskConfig(name)))
    batches = list(task.test(7, 3, 40, seed=1, device="cpu"))
    assert [len(batch.inputs) for batch in batches] == [3, 3, 1]
    assert not torch.equal(batches[0].inputs, batches[1].inputs)


@pytest.mark.parametrize(
    "values",
    [
        {"name": "copying", "symbols": 255},
        {"name": "copying", "memorise": 0},
        {"name": "induction_heads", "symbols": 0},
        {"name": "induction_heads", "symbols": 256},
        {"name": "delay", "band": 0.6},
        {"name": "delay", "lag": 0},
        {"name": "reconstruction", "samples": 0},
        {"name": "forecast", "horizon": 0},
    ],
    ids=str,
)
def test_values_that_cannot_be(values):
    *_, (key, value) = values.items()
    with pytest.raises(InputError, match=f"task.{key}={value}"):
        task_of(Config(task=TaskConfig(**values)))


def test_the_largest_alphabets_fit_into_bytes():
    inputs, answers = draw(Copying(254, 3, True), 200, 9)
    assert inputs.max() == 255 and answers.max() <= 253
    assert draw(InductionHeads(255), 200, 9).inputs.max() == 255


@pytest.mark.parametrize(("task", "length"), [(Copying(4, 5, True), 4), (InductionHeads(4), 2)])
def test_too_short(task, length):
    with pytest.raises(InputError, match=f"length {length}: "):
        draw(task, 2, length)
