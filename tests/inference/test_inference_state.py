"""States: copied, forked, joined, saved and loaded they go on to the same bits; strange files are refused."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from ssm_seq.config import ModelConfig
from ssm_seq.errors import InputError
from ssm_seq.inference.state import State, concatenate, fingerprint, state_bytes
from ssm_seq.layers import map_state
from ssm_seq.models import Classifier, LanguageModel

DTYPES = [torch.float32, torch.float64]
RECURRENT = ["mamba", "h3", "s4", "s4d", "s5", "dss", "lssl", "ema", "lstm", "gru"]
MODELS = pytest.mark.parametrize("kind", ["language_model", "classifier"])
LAYERS = pytest.mark.parametrize("layer", RECURRENT)


def make(layer="mamba", kind="language_model", dtype=torch.float32, seed=0):
    torch.manual_seed(seed)
    config = ModelConfig(layer=layer, d_model=6, n_layers=2, d_state=4)
    if kind == "classifier":
        return Classifier(config, 15, ["a", "b"], "dna").to(dtype).eval()
    return LanguageModel(config, 15, "dna").to(dtype).eval()


def ids(batch, length, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 15, (batch, length)))


def state_of(model, batch=3, length=11):
    logits, parts = model(ids(batch, length))
    return State(parts, logits[:, -1] if logits.ndim == 3 else None)


def tensors(state):
    found = [] if state.logits is None else [state.logits]
    map_state(lambda tensor: found.append(tensor) or tensor, state.parts)
    return found


def assert_same_bits(one, other):
    for a, b in zip(tensors(one), tensors(other), strict=True):
        assert a.dtype == b.dtype and torch.equal(a, b)


def write(path, change):
    data = bytearray(path.read_bytes())
    path.write_bytes(change(data))


@torch.inference_mode()
@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    layer=st.sampled_from(RECURRENT),
    kind=st.sampled_from(["language_model", "classifier"]),
    dtype=st.sampled_from(DTYPES),
    batch=st.integers(1, 3),
    length=st.integers(1, 40),
    after=st.integers(1, 20),
)
def test_a_saved_state_goes_on_to_the_same_bits(tmp_path_factory, layer, kind, dtype, batch, length, after):
    model, path = make(layer, kind, dtype), tmp_path_factory.mktemp("state") / "state.safetensors"
    state = state_of(model, batch, length)
    State(state.parts, state.logits, {"position": length}).save(path, model)
    loaded = State.load(path, make(layer, kind, dtype))
    assert loaded.notes == {"position": length} and loaded.batch == batch
    assert type(loaded.parts) is type(state.parts)
    assert_same_bits(state, loaded)
    for follow in (
        lambda parts: model(ids(batch, after, 1), parts),
        lambda parts: model.step(ids(batch, 1)[:, 0], parts),
    ):
        (expected, after_it), (found, after_loaded) = follow(state.parts), follow(loaded.parts)
        assert torch.equal(found, expected)
        assert_same_bits(State(after_it), State(after_loaded))


@MODELS
@LAYERS
@torch.inference_mode()
def test_rows_are_selected_forked_and_joined(layer, kind):
    model = make(layer, kind)
    state = state_of(model)
    fork = state.select([2, 0, 2])
    assert fork.batch == 3
    for whole, rows in zip(tensors(state), tensors(fork), strict=True):
        assert torch.equal(rows, whole[[2, 0, 2]])
    again = concatenate([state.select([0]), state.select(torch.tensor([1, 2]))])
    assert_same_bits(again, state)
    assert type(again.parts) is type(state.parts)


def test_joining_states_without_logits_drops_them():
    state = state_of(make())
    assert concatenate([state, State(state.parts)]).logits is None
    with pytest.raises(ValueError, match="at least one state"):
        concatenate([])


@torch.inference_mode()
def test_a_clone_shares_nothing():
    state = State(state_of(make()).parts, notes={"a": 1})
    copy = state.clone()
    assert_same_bits(state, copy)
    for tensor in tensors(state):
        tensor.fill_(7)
    assert all((tensor != 7).any() for tensor in tensors(copy))
    assert copy.notes == {"a": 1} and copy.notes is not state.notes


def test_a_state_moves():
    moved = state_of(make()).to("meta")
    assert {tensor.device.type for tensor in tensors(moved)} == {"meta"}


@MODELS
@LAYERS
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_size_is_known_before(layer, kind, dtype):
    model = make(layer, kind, dtype)
    for batch, length in ((1, 3), (4, 90)):
        assert State(state_of(model, batch, length).parts).bytes == state_bytes(model, batch)
    assert state_bytes(model, 8) == 2 * state_bytes(model, 4)


def test_half_precision_carries_float32(tmp_path):
    model = make(dtype=torch.bfloat16)
    state = state_of(model)
    assert State(state.parts).bytes == state_bytes(model, 3) == state_bytes(make(), 3)
    state.save(tmp_path / "state", model)
    loaded = State.load(tmp_path / "state", model)
    assert_same_bits(state, loaded)
    assert torch.equal(model(ids(3, 9), loaded.parts)[0], model(ids(3, 9), state.parts)[0])


def test_a_fingerprint_tells_weights_dtypes_and_descriptions_apart():
    models = [make(), make(seed=1), make(dtype=torch.float64), make("s4d"), make(kind="classifier")]
    assert len({fingerprint(model) for model in models}) == 5
    assert fingerprint(make()) == fingerprint(make())
    other = make()
    other.sample_rate = 8000
    assert fingerprint(other) != fingerprint(make())


def test_a_state_of_another_model_is_refused(tmp_path):
    path, model = tmp_path / "state", make()
    state_of(model).save(path, model)
    for other in (make(seed=1), make("s4d"), make(kind="classifier")):
        sentence = f"the state of model {fingerprint(model)[:12]}; this is model {fingerprint(other)[:12]}"
        with pytest.raises(InputError, match=sentence):
            State.load(path, other)


def test_a_state_of_another_dtype_is_refused(tmp_path):
    path, model, other = tmp_path / "state", make(), make(dtype=torch.float64)
    state_of(model).save(path, model)
    sentence = rf"a float32 model \({fingerprint(model)[:12]}\); .*{fingerprint(other)[:12]}\) is float64"
    with pytest.raises(InputError, match=sentence):
        State.load(path, other)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda data: data[:-5], "damaged or truncated"),
        (lambda data: data[:4], "damaged or truncated"),
        (lambda data: b"", "damaged or truncated"),
        (lambda data: data.replace(b"ssm_seq state 1", b"ssm_seq state 9"), "no saved state"),
        (lambda data: data.replace(b'"dtype":"float32"', b'"dtype":"float64"'), "does not fit its checksum"),
        (lambda data: data.replace(b'"sha256"', b'"sha257"'), "does not fit its checksum"),
        (lambda data: data[:-3] + bytes([data[-3] ^ 1]) + data[-2:], "does not fit its checksum"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path, change, sentence):
    path, model = tmp_path / "state", make()
    state_of(model).save(path, model)
    write(path, change)
    with pytest.raises(InputError, match=f"{path}: .*{sentence}"):
        State.load(path, model)


def test_what_is_no_state_is_refused(tmp_path):
    with pytest.raises(InputError, match="no such file; expected a saved state"):
        State.load(tmp_path / "none", make())
    save_file({"a": torch.zeros(2)}, tmp_path / "other")
    with pytest.raises(InputError, match=r"no saved state; expected a file that State\.save wrote"):
        State.load(tmp_path / "other", make())


def test_a_state_is_saved_with_its_own_model_only(tmp_path):
    with pytest.raises(ValueError, match="not those of the model"):
        state_of(make("s4d")).save(tmp_path / "state", make())
    assert not list(tmp_path.iterdir())
