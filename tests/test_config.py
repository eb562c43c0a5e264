"""Experiments compose to typed dataclasses; mistakes are answered with the nearest names."""

from pathlib import Path

import pytest

from ssm_seq.config import Config, compose
from ssm_seq.errors import InputError

EXPERIMENTS = sorted(path.stem for path in Path("config/experiment").glob("*.yaml"))


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_composes_and_names_its_data(experiment):
    config = compose([f"experiment={experiment}"])
    assert type(config) is Config
    assert config.title
    assert config.data.store.name != "???"


def test_overrides_win_over_the_experiment_and_the_experiment_over_the_groups():
    assert compose(["experiment=speech"]).data.window == 2048
    assert compose(["experiment=speech", "data.window=77"]).data.window == 77
    assert compose(["experiment=species", "model=s4d"]).model.layer == "s4d"


@pytest.mark.parametrize(
    "override, expected",
    [
        ("experiment=spcies", "no such experiment; nearest: species"),
        ("model=mmba", "no such model; nearest: mamba"),
        ("model.dmodel=3", "no key 'model.dmodel'; nearest: model.d_model"),
        ("optim.stepz=3", "nearest: optim.steps"),
        ("model.d_model=wide", "d_model"),
    ],
)
def test_a_mistake_is_one_sentence_with_the_nearest_names(override, expected):
    with pytest.raises(InputError) as error:
        compose([override])
    assert expected in str(error.value)
    assert "\n" not in str(error.value)


def test_a_key_unknown_to_the_schema_in_an_experiment_file(tmp_path):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "config.yaml").write_text("defaults:\n  - schema\n  - _self_\n  - experiment: mine\n")
    (tmp_path / "experiment" / "mine.yaml").write_text("# @package _global_\noptim: {step: 3}\n")
    with pytest.raises(InputError, match="step") as error:
        compose([], tmp_path)
    assert "nearest: optim.steps" in str(error.value)


def test_a_folder_without_configuration(tmp_path):
    with pytest.raises(InputError, match=r"no config\.yaml here"):
        compose([], tmp_path)
