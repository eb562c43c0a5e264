"""The Transformer to compare with is Llama, and the contest reads and generates the same on both sides."""

import pytest
import torch

from ssm_seq.benchmark import contest as contests
from ssm_seq.benchmark.against_transformers import library
from ssm_seq.benchmark.contest import Contest, llama
from ssm_seq.benchmark.decode import _by_transformers
from ssm_seq.benchmark.decode_cases import DecodeCase
from ssm_seq.benchmark.measured import Measured
from ssm_seq.benchmark.transformer import Shape, Transformer
from ssm_seq.models import LanguageModel

CPU = torch.device("cpu")
SMALL = Shape(layers=2, d_model=32, heads=4, d_ff=48, vocab=50)


def of_transformers(shape):
    pytest.importorskip("transformers")
    torch.manual_seed(0)
    return llama(library(), shape, 2048)


def with_weights_of(theirs, shape):
    weights, ours = theirs.state_dict(), Transformer(shape)
    named = {
        "embedding.weight": "model.embed_tokens.weight",
        "norm.weight": "model.norm.weight",
        "head.weight": "lm_head.weight",
    }
    found = {own: weights[name] for own, name in named.items()}
    parts = {
        "norm_1": ["input_layernorm"],
        "qkv": ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
        "out": ["self_attn.o_proj"],
        "norm_2": ["post_attention_layernorm"],
        "gate_up": ["mlp.gate_proj", "mlp.up_proj"],
        "down": ["mlp.down_proj"],
    }
    for layer in range(shape.layers):
        for own, names in parts.items():
            joined = torch.cat([weights[f"model.layers.{layer}.{name}.weight"] for name in names])
            found[f"blocks.{layer}.{own}.weight"] = joined
    ours.load_state_dict(found)
    return ours


@torch.no_grad()
def test_it_is_llama():
    theirs = of_transformers(SMALL)
    ours, prompts = with_weights_of(theirs, SMALL), torch.randint(50, (3, 9))
    expected = theirs.generate(prompts, max_new_tokens=8, do_sample=False)[:, 9:]
    cache = ours.cache(batch=3, positions=16)
    ids = [ours(prompts, cache, 0).argmax(-1)]
    for position in range(9, 16):
        ids.append(ours(ids[-1][:, None], cache, position).argmax(-1))
    assert torch.equal(torch.stack(ids, 1), expected)


def test_both_sides_have_as_many_parameters():
    case, shape, _ = Contest()
    with torch.device("meta"):
        sizes = [
            sum(weight.numel() for weight in model.parameters())
            for model in (LanguageModel(case.config, shape.vocab, "bytes"), Transformer(shape))
        ]
    assert sizes[0] == pytest.approx(sizes[1], rel=0.05) and min(sizes) > 300e6


def test_a_contest():
    pytest.importorskip("transformers")
    contest = Contest(DecodeCase(1, 8, 3, precision="float32", length=6), Shape(1, 8, 2, 12, 256), 20)
    planned, figures = contests.plan(contest), list(contests.measure(contest, CPU))
    assert [figure.name for figure in figures[:-1]] == [figure.name for figure in planned]
    speed, ratio, whole, first, other = figures
    assert ratio.value == pytest.approx(speed.value / speed.peer.value, rel=1e-3) and ratio.target == 5
    # Times of one run, of which noise may make the first step shorter than the rest.
    assert whole.value == pytest.approx(18 / (first.value + 15 / speed.value))
    assert whole.peer.value == pytest.approx(18 / (first.peer.value + 15 / speed.peer.value), rel=1e-3)
    # Of the two Transformers the faster is beside ours.
    assert 0 < other.value <= speed.peer.value * 1.001


def test_mamba_in_transformers():
    pytest.importorskip("transformers")
    case = DecodeCase(1, 8, 2, precision="float32", length=4)
    [figure] = _by_transformers(Measured(case.name, unit="tokens/s"), case, CPU)
    assert figure.value > 0
