"""Checkpoints of mamba-ssm and transformers: the same logits, whole round trips, one sentence of refusal."""

import json
import os
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from ssm_seq.compat import checkpoints
from ssm_seq.compat.checkpoints import load_checkpoint, save_checkpoint
from ssm_seq.config import ModelConfig
from ssm_seq.errors import InputError
from ssm_seq.models import Classifier, LanguageModel, load_model

LAYOUTS = ["mamba_ssm", "transformers", "ssm_seq"]
PADDED = {"vocab_size": 21, "pad_vocab_size_multiple": 8}


def make(layer="mamba", vocab_size=21, alphabet="tokens", tied=False, **values) -> LanguageModel:
    """A model none of whose tensors is at its initial value."""
    torch.manual_seed(0)
    config = ModelConfig(layer=layer, d_model=24, n_layers=2, d_state=4, **values)
    model = LanguageModel(config, vocab_size, alphabet)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
        if tied:
            model.head.weight.copy_(model.backbone.embedding.weight)
    return model.eval()


def ids(vocab_size=21):
    return torch.randint(vocab_size, (2, 40), generator=torch.Generator().manual_seed(1))


def same(one: LanguageModel, other: LanguageModel) -> None:
    assert one.description() == other.description()
    assert one.state_dict().keys() == other.state_dict().keys()
    for name, tensor in one.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name]), name


# transformers as the judge


def foreign(transformers, **values):
    """A model of transformers with random weights, everything of another size than the default."""
    torch.manual_seed(0)
    sizes = {
        "vocab_size": 21,
        "hidden_size": 40,
        "state_size": 5,
        "num_hidden_layers": 3,
        "conv_kernel": 3,
        "expand": 3,
    }
    model = transformers.MambaForCausalLM(transformers.MambaConfig(**sizes | values))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model.eval()


def assert_same_logits(model: LanguageModel, judge) -> None:
    with torch.no_grad():
        found, expected = model(ids())[0], judge(ids(), use_cache=False).logits[..., :21]
    assert expected.std() > 0.1
    assert (found - expected).abs().max() < 1e-4


@pytest.mark.parametrize("tied", [True, False])
def test_logits_are_those_of_transformers(transformers, tmp_path, tied):
    judge = foreign(transformers, tie_word_embeddings=tied)
    judge.save_pretrained(tmp_path / "model")
    model = load_checkpoint(tmp_path / "model")
    assert model.config == ModelConfig(d_model=40, n_layers=3, d_state=5, d_conv=3, expand=3)
    assert (model.alphabet, model.vocab_size, model.training) == ("tokens", 21, False)
    assert_same_logits(model, judge)


def test_logits_of_the_default_sizes(transformers, tmp_path):
    torch.manual_seed(0)
    config = transformers.MambaConfig(vocab_size=21, hidden_size=64, num_hidden_layers=2)
    judge = transformers.MambaForCausalLM(config).eval()
    judge.save_pretrained(tmp_path / "model")
    assert_same_logits(load_checkpoint(tmp_path / "model"), judge)


@pytest.mark.parametrize("tied", [True, False])
def test_transformers_loads_what_is_saved(transformers, tmp_path, tied):
    model = make(tied=tied)
    save_checkpoint(model, tmp_path / "model", "transformers")
    judge, said = transformers.MambaForCausalLM.from_pretrained(tmp_path / "model", output_loading_info=True)
    assert not any(said[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert_same_logits(model, judge.eval())
    shared = judge.lm_head.weight.data_ptr() == judge.backbone.embeddings.weight.data_ptr()
    assert shared == tied
    assert judge.config.eos_token_id is None


def test_weights_in_shards(transformers, tmp_path):
    judge = foreign(transformers)
    judge.save_pretrained(tmp_path / "model", max_shard_size="20KB")
    assert len(list((tmp_path / "model").glob("*.safetensors"))) > 2
    assert_same_logits(load_checkpoint(tmp_path / "model"), judge)


def mamba_ssm_folder(judge, folder, rows=24, tied=True, weights="pytorch_model.bin", **config):
    """The folder that mamba-ssm would write for the model, its vocabulary padded to `rows`."""
    tensors = {
        name.replace("backbone.embeddings.", "backbone.embedding."): tensor.clone()
        for name, tensor in judge.state_dict().items()
    }
    padding = torch.full((rows - 21, 40), 9.0)
    for name in ("backbone.embedding.weight", "lm_head.weight"):
        tensors[name] = torch.cat([tensors[name], padding])
    if tied:
        tensors["lm_head.weight"] = tensors["backbone.embedding.weight"]
    folder.mkdir()
    if weights == "pytorch_model.bin":
        torch.save(tensors, folder / weights)
    else:
        save_file({name: tensor.clone() for name, tensor in tensors.items()}, folder / weights)
    described = {
        "d_model": 40,
        "n_layer": 3,
        "vocab_size": 21,
        "ssm_cfg": {"d_state": 5, "d_conv": 3, "expand": 3},
        "rms_norm": True,
        "residual_in_fp32": True,
        "fused_add_norm": True,
        "pad_vocab_size_multiple": 8,
    }
    (folder / "config.json").write_text(json.dumps(described | config))


@pytest.mark.parametrize("weights", ["pytorch_model.bin", "model.safetensors"])
@pytest.mark.parametrize("tied", [True, False])
def test_a_padded_vocabulary_loses_its_padding(transformers, tmp_path, tied, weights):
    judge = foreign(transformers, tie_word_embeddings=tied)
    config = {} if tied else {"tie_embeddings": False}  # older files do not say it
    mamba_ssm_folder(judge, tmp_path / "model", tied=tied, weights=weights, **config)
    model = load_checkpoint(tmp_path / "model")
    assert model.vocab_size == 21 and model.head.weight.shape == (21, 40)
    assert_same_logits(model, judge)


def test_all_entries_of_a_newer_config(transformers, tmp_path):
    judge = foreign(transformers)
    mixer = {"layer": "Mamba1", "d_state": 5, "d_conv": 3, "expand": 3, "dt_rank": 3, "dt_max": 0.2}
    more = {"d_intermediate": 0, "attn_layer_idx": [], "attn_cfg": {}, "tie_embeddings": True}
    mamba_ssm_folder(judge, tmp_path / "model", ssm_cfg=mixer, **more)
    assert_same_logits(load_checkpoint(tmp_path / "model"), judge)


def test_half_precision_weights_become_float32(transformers, tmp_path):
    judge = foreign(transformers).bfloat16()
    mamba_ssm_folder(judge, tmp_path / "model", 24)
    model = load_checkpoint(tmp_path / "model")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert_same_logits(model, judge.float())


# Round trips


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_same_model_comes_back(tmp_path, layout, tied):
    model = make(tied=tied)
    save_checkpoint(model, tmp_path / "model", layout)
    same(load_checkpoint(tmp_path / "model"), model)
    config = json.loads((tmp_path / "model/config.json").read_text())
    if layout != "ssm_seq":
        assert config["tie_embeddings" if layout == "mamba_ssm" else "tie_word_embeddings"] is tied


def test_through_all_layouts(tmp_path):
    model = make(d_conv=2, expand=1)
    save_checkpoint(model, tmp_path / "0", "mamba_ssm")
    for number, layout in enumerate(["transformers", "ssm_seq", "mamba_ssm"]):
        save_checkpoint(load_checkpoint(tmp_path / str(number)), tmp_path / str(number + 1), layout)
    same(load_checkpoint(tmp_path / "3"), model)
    first, last = (torch.load(tmp_path / n / "pytorch_model.bin", weights_only=True) for n in "03")
    assert first.keys() == last.keys() and all(torch.equal(first[name], last[name]) for name in first)


def test_the_names_of_mamba_ssm(tmp_path):
    save_checkpoint(make(tied=True), tmp_path / "model", "mamba_ssm")
    tensors = torch.load(tmp_path / "model/pytorch_model.bin", weights_only=True)
    mixer = "A_log D conv1d.weight conv1d.bias in_proj.weight x_proj.weight dt_proj.weight dt_proj.bias"
    assert tensors.keys() == {
        "backbone.embedding.weight",
        "backbone.norm_f.weight",
        "lm_head.weight",
        *(f"backbone.layers.{i}.norm.weight" for i in (0, 1)),
        *(
            f"backbone.layers.{i}.mixer.{name}"
            for i in (0, 1)
            for name in [*mixer.split(), "out_proj.weight"]
        ),
    }
    assert tensors["lm_head.weight"].data_ptr() == tensors["backbone.embedding.weight"].data_ptr()


@pytest.mark.parametrize("layout", ["mamba_ssm", "transformers"])
def test_an_alphabet_of_ours(tmp_path, layout):
    model = make(vocab_size=15, alphabet="dna")
    save_checkpoint(model, tmp_path / "model", layout)
    same(load_checkpoint(tmp_path / "model", "dna"), model)
    assert load_checkpoint(tmp_path / "model").alphabet == "tokens"


def test_an_alphabet_of_ours_in_a_padded_vocabulary(tmp_path):
    padded = make(vocab_size=16)
    save_checkpoint(padded, tmp_path / "model", "transformers")
    model = load_checkpoint(tmp_path / "model", "dna")
    assert model.vocab_size == 15
    logits = padded(ids(15))[0]
    assert torch.equal(model(ids(15))[0], logits[..., :15])


def test_sound_with_its_rate(tmp_path):
    save_checkpoint(make(vocab_size=256), tmp_path / "model", "mamba_ssm")
    model = load_checkpoint(tmp_path / "model", "mu_law", 16000)
    assert (model.alphabet, model.sample_rate) == ("mu_law", 16000)


# What cannot be saved


def test_a_failed_save_leaves_nothing(tmp_path, monkeypatch):
    def fail(tensors, path):
        path.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(checkpoints.torch, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        save_checkpoint(make(), tmp_path / "model", "mamba_ssm")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("layout", ["mamba_ssm", "transformers"])
def test_a_folder_that_holds_something_is_not_replaced(tmp_path, layout):
    save_checkpoint(make(), tmp_path / "model", layout)
    (tmp_path / "model/tokenizer.json").write_text("{}")
    with pytest.raises(InputError, match="is not replaced"):
        save_checkpoint(make(), tmp_path / "model", layout)


@pytest.mark.parametrize("layout", ["mamba_ssm", "transformers"])
def test_models_without_a_place(tmp_path, layout):
    classifier = Classifier(ModelConfig(d_model=8, n_layers=1), 15, ["a", "b"], "dna")
    labelled = LanguageModel(ModelConfig(d_model=8, n_layers=1), 15, "dna", classes=["a", "b"])
    for model, said in [
        (make("s4d"), "language_model of s4d layers"),
        (classifier, "classifier of mamba"),
        (labelled, f"tokens of classes, for which {layout} has no place"),
    ]:
        with pytest.raises(InputError, match=said):
            save_checkpoint(model, tmp_path / "model", layout)
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_layout(tmp_path):
    with pytest.raises(InputError, match="no layout 'gguf'; known: mamba_ssm, transformers, ssm_seq"):
        save_checkpoint(make(), tmp_path / "model", "gguf")


# What cannot be loaded


def refusal(folder, *arguments) -> str:
    with pytest.raises(InputError) as caught:
        load_checkpoint(folder, *arguments)
    sentence = str(caught.value)
    assert sentence.startswith(str(folder)) and "\n" not in sentence
    return sentence


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    for layout in LAYOUTS:
        save_checkpoint(make(), folder / layout, layout)
    return folder


@pytest.fixture
def folders(saved, tmp_path):
    shutil.copytree(saved, tmp_path / "models")
    return tmp_path / "models"


def change(folder, **entries):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


@pytest.mark.parametrize(
    ("layout", "entries", "said"),
    [
        ("mamba_ssm", {"ssm_cfg": {"layer": "Mamba2"}}, "ssm_cfg.layer is 'Mamba2', only Mamba1"),
        ("mamba_ssm", {"ssm_cfg": {"headdim": 64}}, "ssm_cfg.headdim is 64"),
        ("mamba_ssm", {"ssm_cfg": {"dt_rank": 7}}, "dt_rank is 7"),
        ("mamba_ssm", {"ssm_cfg": {"conv_bias": False}}, "conv_bias is False"),
        ("mamba_ssm", {"ssm_cfg": {"bias": True}}, "bias is True"),
        ("mamba_ssm", {"ssm_cfg": {"expand": 1.5}}, "expand is 1.5, expected a positive whole number"),
        ("mamba_ssm", {"ssm_cfg": 3}, "ssm_cfg is 3, expected an object"),
        ("mamba_ssm", {"attn_layer_idx": [1]}, "attn_layer_idx is [1], models with attention"),
        ("mamba_ssm", {"d_intermediate": 64}, "d_intermediate is 64"),
        ("mamba_ssm", {"rms_norm": False}, "rms_norm is False"),
        ("mamba_ssm", {"n_layer": 0}, "n_layer is 0, expected a positive whole number"),
        ("mamba_ssm", {"vocab_size": "21"}, "vocab_size is '21', expected a positive whole number"),
        ("transformers", {"model_type": "mamba2"}, "model_type is 'mamba2', expected 'mamba'"),
        ("transformers", {"use_bias": True}, "use_bias is True"),
        ("transformers", {"use_conv_bias": False}, "use_conv_bias is False"),
        ("transformers", {"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
        ("transformers", {"time_step_rank": 5}, "time_step_rank is 5"),
        ("transformers", {"layer_norm_epsilon": 1e-6}, "layer_norm_epsilon is 1e-06"),
        ("transformers", {"hidden_size": None}, "hidden_size is None, expected a positive whole number"),
    ],
)
def test_what_this_library_has_no_model_for(folders, layout, entries, said):
    change(folders / layout, **entries)
    assert refusal(folders / layout).startswith(f"{folders / layout}/config.json: {said}")


@pytest.mark.parametrize(
    ("layout", "entries", "said"),
    [
        ("mamba_ssm", {"n_layer": 3}, "tensor backbone.layers.2.norm.weight is missing"),
        ("mamba_ssm", {"n_layer": 1}, "tensor backbone.layers.1.mixer.A_log has no place"),
        ("mamba_ssm", {"vocab_size": 22}, "backbone.embedding.weight is float32 (21, 24), config.json asks"),
        ("mamba_ssm", PADDED, "asks for floating numbers (24, 24)"),
        ("mamba_ssm", {"ssm_cfg": {"d_state": 8}}, "mixer.A_log is float32 (48, 4)"),
        ("mamba_ssm", {"tie_embeddings": True}, "lm_head.weight is not backbone.embedding.weight"),
        ("transformers", {"state_size": 8}, "mixer.A_log is float32 (48, 4)"),
        ("transformers", {"vocab_size": 24}, "backbone.embeddings.weight is float32 (21, 24)"),
    ],
)
def test_weights_that_do_not_fit(folders, layout, entries, said):
    change(folders / layout, **entries)
    assert said in refusal(folders / layout)


def test_integers_are_no_weights(folders):
    path = folders / "transformers/model.safetensors"
    save_file(load_file(path) | {"lm_head.weight": torch.zeros(21, 24, dtype=torch.int8)}, path)
    assert "tensor lm_head.weight is int8 (21, 24)" in refusal(folders / "transformers")


@pytest.mark.parametrize(
    "layout, weights", [("mamba_ssm", "pytorch_model.bin"), ("transformers", "model.safetensors")]
)
@pytest.mark.parametrize("kept", [0, 1, 100, 0.5, 0.999])
def test_truncated_weights(folders, layout, weights, kept):
    path = folders / layout / weights
    data = path.read_bytes()
    path.write_bytes(data[: kept if isinstance(kept, int) else int(kept * len(data))])
    assert refusal(folders / layout).startswith(f"{path}: damaged")


class Attack:
    def __reduce__(self):
        return os.mkdir, ("attacked",)


@pytest.mark.parametrize(
    ("content", "said"),
    [(Attack(), "more than tensors"), ([1], "no dictionary"), ({"a": 1}, "no dictionary")],
)
def test_a_pickle_with_something_else(folders, content, said, monkeypatch):
    monkeypatch.chdir(folders)
    torch.save(content, folders / "mamba_ssm/pytorch_model.bin")
    assert said in refusal(folders / "mamba_ssm")
    assert not (folders / "attacked").exists()


@pytest.mark.parametrize(
    ("index", "said"),
    [
        (
            {"weight_map": {"a": "../other.safetensors"}},
            "no weight_map of tensors to files of the same folder",
        ),
        ({"weight_map": ["a"]}, "no weight_map"),
        ({"weight_map": {"a": "part.safetensors"}}, "part.safetensors: no such file"),
    ],
)
def test_a_wrong_index_of_shards(folders, index, said):
    folder = folders / "transformers"
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert said in refusal(folder)


def test_no_weights(folders):
    (folders / "mamba_ssm/pytorch_model.bin").unlink()
    assert "no weights here; expected model.safetensors or pytorch_model.bin" in refusal(
        folders / "mamba_ssm"
    )


@pytest.mark.parametrize("content", ["", "[1]", "{", '{"d_model": 8}', '{"kind": "language_model"}'])
def test_a_config_that_is_none(folders, content):
    (folders / "mamba_ssm/config.json").write_text(content)
    assert refusal(folders / "mamba_ssm").startswith(f"{folders}/mamba_ssm/config.json: ")


def test_no_folder(tmp_path):
    assert refusal(tmp_path / "none").endswith("no such file; expected the folder of a language model")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("dna",), "vocab_size is 21, the alphabet dna has 15 letters"),
        (("klingon",), "there is no alphabet 'klingon'"),
        (("mu_law",), "the alphabet mu_law goes with a sample rate"),
        (("dna", 8000), "the alphabet dna goes without a sample rate"),
        ((None, 8000), "a sample rate needs an alphabet of sound"),
    ],
)
def test_an_alphabet_that_does_not_fit(saved, arguments, said):
    assert said in refusal(saved / "mamba_ssm", *arguments)


def test_a_model_of_ours_knows_its_alphabet(saved):
    assert "says alphabet and sample rate itself" in refusal(saved / "ssm_seq", "dna")
    same(load_checkpoint(saved / "ssm_seq"), load_model(saved / "ssm_seq"))


def test_a_classifier_of_ours(tmp_path):
    Classifier(ModelConfig(d_model=8, n_layers=1), 15, ["a", "b"], "dna").save(tmp_path / "model")
    assert refusal(tmp_path / "model").endswith("this is a classifier, expected a language model")
