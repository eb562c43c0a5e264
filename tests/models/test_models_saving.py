"""Models in a folder: the same model comes back, and damage is answered with one sentence."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from ssm_seq.config import ModelConfig
from ssm_seq.errors import InputError
from ssm_seq.models import Classifier, LanguageModel, load_model, loading, model


def make(kind="classifier", layer="mamba", **values):
    torch.manual_seed(0)
    config = ModelConfig(layer=layer, d_model=6, n_layers=2, d_state=4, dropout=0.25, **values)
    if kind == "classifier":
        return Classifier(config, 256, ["de", "en"], "mu_law", 8000)
    return LanguageModel(config, 15, "dna")


@pytest.fixture
def folder(tmp_path):
    make().save(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize("kind", ["classifier", "language_model"])
@pytest.mark.parametrize("layer", ["mamba", "s4", "s4d", "s5", "dss", "lssl", "ema", "h3"])
def test_the_same_model_comes_back(tmp_path, kind, layer):
    saved = make(kind, layer)
    saved.save(tmp_path / "model")
    loaded = load_model(tmp_path / "model", "cpu")
    assert type(loaded) is type(saved) and not loaded.training
    assert loaded.config == saved.config
    assert loaded.description() == saved.description()
    assert (loaded.alphabet, loaded.sample_rate) == (saved.alphabet, saved.sample_rate)
    for name, tensor in saved.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    ids = torch.randint(15, (2, 30))
    assert torch.equal(loaded(ids)[0], saved.eval()(ids)[0])
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == [
        "config.json",
        "model.safetensors",
    ]


def test_a_full_disk_leaves_the_old_model(folder, full_disk):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with full_disk(), pytest.raises(InputError, match=f"{folder}: the model cannot be written"):
        make("language_model").save(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_a_failed_save_leaves_the_old_model(folder, monkeypatch):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def fail(tensors, path):
        path.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(model, "save_file", fail)
    with pytest.raises(InputError, match="disk full"):
        make(layer="s4d").save(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


def test_a_model_saved_before_an_option_existed_comes_back(folder):
    before = load_model(folder)
    change_description(folder, lambda described: [described["model"].pop(name) for name in loading.LATER])
    loaded = load_model(folder)
    assert loaded.config == before.config == make().config
    ids = torch.randint(15, (2, 30))
    assert torch.equal(loaded(ids)[0], before(ids)[0])


def refusal(folder):
    with pytest.raises(InputError) as caught:
        load_model(folder)
    sentence = str(caught.value)
    assert "\n" not in sentence
    return sentence


def test_no_folder(tmp_path):
    assert refusal(tmp_path / "none").startswith(f"{tmp_path}/none/config.json: no such file")


def test_no_weights(folder):
    (folder / "model.safetensors").unlink()
    assert refusal(folder).startswith(f"{folder}/model.safetensors: no such file")


@pytest.mark.parametrize("kept", [0, 1, 8, 100, 0.5, 0.999])
def test_truncated_weights(folder, kept):
    path = folder / "model.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[: kept if isinstance(kept, int) else int(kept * len(data))])
    assert refusal(folder).startswith(f"{path}: damaged or truncated")


def test_garbage_for_weights(folder):
    (folder / "model.safetensors").write_bytes(bytes(range(256)) * 10)
    assert "damaged or truncated" in refusal(folder)


def change_weights(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def test_a_missing_tensor_is_named(folder):
    change_weights(folder, lambda tensors: tensors.pop("backbone.blocks.1.layer.A_log"))
    assert "tensor backbone.blocks.1.layer.A_log is missing" in refusal(folder)


def test_an_unexpected_tensor_is_named(folder):
    change_weights(folder, lambda tensors: tensors.update(extra=torch.zeros(1)))
    assert "tensor extra has no place" in refusal(folder)


def test_a_tensor_of_the_wrong_shape_is_named_with_both_shapes(folder):
    change_weights(folder, lambda tensors: tensors.update({"head.bias": torch.zeros(3)}))
    assert "tensor head.bias is float32 (3,), config.json asks for float32 (2,)" in refusal(folder)


def test_a_tensor_of_the_wrong_type_is_named(folder):
    change_weights(folder, lambda tensors: tensors.update({"head.bias": torch.zeros(2, dtype=torch.int8)}))
    assert "tensor head.bias is int8 (2,), config.json asks for float32 (2,)" in refusal(folder)


def change_description(folder, change):
    path = folder / "config.json"
    described = json.loads(path.read_text())
    change(described)
    path.write_text(json.dumps(described))


def test_another_config_names_the_first_tensor_that_does_not_fit(folder):
    change_description(folder, lambda described: described["model"].update(d_state=8))
    assert "tensor backbone.blocks.0.layer.A_log is float32 (12, 4)" in refusal(folder)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda d: d.pop("vocab_size"), "the entry 'vocab_size' is missing"),
        (lambda d: d.pop("classes"), "the entry 'classes' is missing"),
        (lambda d: d["model"].pop("layer"), "the entry 'layer' is missing"),
        (lambda d: d["model"].update(wings=2), "unknown entry model.wings"),
        (lambda d: d["model"].update(d_model="6"), "model.d_model is '6', expected int"),
        (lambda d: d["model"].update(layer="rwkv"), "model.layer=rwkv: there is no such layer"),
        (lambda d: d.update(kind="diffusion"), "kind is 'diffusion', expected"),
        (lambda d: d.update(classes=[]), "classes is [], expected a list of names"),
        (lambda d: d.update(vocab_size=0), "vocab_size is 0, expected a positive whole number"),
        (lambda d: d.update(sample_rate="8k"), "sample_rate is '8k', expected a whole number"),
    ],
)
def test_a_damaged_description(folder, change, sentence):
    change_description(folder, change)
    assert refusal(folder).startswith(f"{folder}/config.json: {sentence}")


@pytest.mark.parametrize("content", ["", "{", "[1]", "null", '{"kind": '])
def test_a_description_that_is_no_description(folder, content):
    (folder / "config.json").write_text(content)
    assert refusal(folder).startswith(f"{folder}/config.json: ")


def test_a_description_that_is_no_text(folder):
    (folder / "config.json").write_bytes(b"\xff\xfe\x00")
    assert refusal(folder).startswith(f"{folder}/config.json: not valid JSON")
