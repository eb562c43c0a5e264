"""ssm-seq bench measures: small cases, one that fails, peers by stand-ins, transformers there and missing."""

import json
import sys
from types import ModuleType

import pytest
import torch

from ssm_seq.benchmark import (
    against_transformers,
    cases,
    decode,
    decode_cases,
    kernels,
    peers,
    s4_kernel,
    score,
)
from ssm_seq.benchmark.against_transformers import Contest, measure_against_transformers
from ssm_seq.benchmark.cases import Case, ModelCase
from ssm_seq.benchmark.inputs import ready
from ssm_seq.benchmark.models import measure_model
from ssm_seq.commands import bench
from ssm_seq.commands.cli import KERNELS, main
from ssm_seq.compat import mamba_ssm as drop_in
from ssm_seq.config import ModelConfig
from ssm_seq.reporting.results_table import read_result

CPU = torch.device("cpu")
SMALL = {
    kernel: Case(kernel, 1, 16, 1 if kernel == "selective_step" else 32, 4, 8, torch.float32)
    for kernel in KERNELS
}


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(cases, "CPU_CASES", list(SMALL.values()))
    monkeypatch.setattr(bench, "measure_against_transformers", lambda: [])
    monkeypatch.setattr(s4_kernel, "CPU_CASES", [])
    monkeypatch.setattr(decode, "jobs", lambda device: [])
    monkeypatch.setattr(score, "jobs", lambda device: [])


@pytest.mark.parametrize("kernel", KERNELS)
def test_every_pass_of_a_kernel(kernel):
    figures = list(kernels.measure(SMALL[kernel], CPU, None))
    assert [figure.name for figure in figures] == [
        SMALL[kernel].name(which) for which in SMALL[kernel].passes
    ]
    assert all(0 < figure.low <= figure.value <= figure.high for figure in figures)
    assert all(figure.peak is None for figure in figures)
    assert all((figure.peer is None) == (kernel != "lti_scan") for figure in figures)


def test_backward_reaches_every_tensor():
    made = ready(SMALL["mixer"], CPU)
    kernels._pass(made.run, made.tensors, backward=True)()
    assert all(tensor.requires_grad for tensor in made.tensors)
    assert made.run()[0].requires_grad


def test_result_file_and_table(small, tmp_path, capsys):
    out = tmp_path / "kernels.json"
    assert main(["bench", "--device", "cpu", "--out", str(out), "--commit", "f" * 40]) == 0
    result = read_result(out)
    assert result["commit"] == "f" * 40
    assert result["command"] == f"ssm-seq bench --device cpu --out {out}"
    assert len(result["records"]) == 2 * len(KERNELS) - 1
    shown = capsys.readouterr().out
    assert all(record["name"] in shown for record in result["records"])
    assert "recorded" not in shown and "peers" not in result  # other hardware


def test_only(small, capsys):
    assert main(["bench", "--device", "cpu", "--only", "conv", "rms_norm"]) == 0
    lines = capsys.readouterr().out.splitlines()[1:]
    assert [line.split()[0] for line in lines] == ["conv", "conv", "rms_norm", "rms_norm"]


def test_generation(monkeypatch, capsys):
    case = decode_cases.DecodeCase(1, 8, 2, precision="float32", length=20)
    monkeypatch.setattr(decode_cases, "CPU_CASES", [case])
    monkeypatch.setattr(decode, "_beside_transformers", lambda case: [])
    figures = [figure for job in decode.jobs(CPU) for figure in job.run()]
    assert [figure.name for figure in figures] == ["decode 1x8 batch 2 float32"]
    assert 0 < figures[0].low <= figures[0].value <= figures[0].high and figures[0].target is None


def test_generation_beside_transformers():
    pytest.importorskip("transformers")
    case = decode_cases.DecodeCase(2, 16, 1, precision="float32", length=12)
    speed, ratio = decode._beside_transformers(case)
    assert speed.value / speed.peer.value == pytest.approx(ratio.value, rel=1e-3) and ratio.target == 20


def test_a_case_that_fails_is_a_line_and_exit_code_1(small, tmp_path, monkeypatch, capsys):
    def broken(case, device, rates):
        first, *_ = kernels.plan(case, device)
        yield first
        if case.kernel == "conv":
            raise ValueError("x has shape ()\nand more")
        if case.kernel == "rms_norm":
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB")

    monkeypatch.setattr(bench, "measure", broken)
    out = tmp_path / "kernels.json"
    assert main(["bench", "--device", "cpu", "--out", str(out), "--only", "rms_norm"]) == 0
    assert json.loads(out.read_text())["records"][1]["failed"] == "out of memory"
    assert main(["bench", "--device", "cpu", "--out", str(out), "--only", "scan", "conv", "mixer"]) == 1
    records = json.loads(out.read_text())["records"]
    assert [record.get("failed") for record in records] == [None, None, "ValueError: x has shape ()", None]
    assert records[2]["name"] == SMALL["conv"].name("fwd+bwd")
    assert "ValueError: x has shape ()" in capsys.readouterr().out


def test_the_file_is_there_after_every_case(small, tmp_path, monkeypatch):
    out, seen = tmp_path / "kernels.json", []

    def measured(case, device, rates):
        seen.append(len(json.loads(out.read_text())["records"]))
        return kernels.plan(case, device)

    monkeypatch.setattr(bench, "measure", measured)
    main(["bench", "--device", "cpu", "--out", str(out), "--only", "scan", "conv", "mixer"])
    assert seen == [0, 2, 4]


@pytest.mark.parametrize(
    "more, said",
    [
        (["--device", "cuda"], "no usable CUDA device"),
        (["--device", "cpu", "--only", "first_call"], "figure of a GPU"),
    ],
)
def test_bad_input_is_one_sentence(more, said, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["bench", *more]) == 2
    shown = capsys.readouterr().err
    assert said in shown and shown.count("\n") == 1


def test_peers_run_where_they_are_importable(monkeypatch):
    scans, convs = (ModuleType(name) for name in ("scans", "convs"))
    scans.selective_scan_fn, convs.causal_conv1d_fn = drop_in.selective_scan_fn, drop_in.causal_conv1d_fn
    package = ModuleType("mamba_ssm")
    package.Mamba = lambda d_model, d_state, device: torch.nn.Linear(d_model, d_model)
    monkeypatch.setitem(sys.modules, "mamba_ssm", package)
    monkeypatch.setitem(sys.modules, "mamba_ssm.ops", ModuleType("ops"))
    monkeypatch.setitem(sys.modules, "mamba_ssm.ops.selective_scan_interface", scans)
    monkeypatch.setitem(sys.modules, "causal_conv1d", convs)
    for kernel in ("scan", "conv", "lti_scan"):
        run, tensors = peers.peer(SMALL[kernel], CPU)
        (output,) = run()
        made = ready(SMALL[kernel], CPU)
        assert torch.allclose(output.transpose(1, 2), made.run()[0], atol=1e-5)  # the same numbers
        kernels._pass(run, tensors, backward=True)()
    kernels._pass(*peers.peer(SMALL["mixer"], CPU), backward=True)()
    assert peers.peer(SMALL["rms_norm"], CPU) is None


def test_no_peer_where_none_is_importable(monkeypatch):
    for name in ("mamba_ssm", "mamba_ssm.ops.selective_scan_interface", "causal_conv1d"):
        monkeypatch.setitem(sys.modules, name, None)
    assert {kernel for kernel, case in SMALL.items() if peers.peer(case, CPU)} == {"lti_scan"}


@pytest.mark.parametrize("training", [True, False])
def test_a_model_steps(training):
    figure = measure_model(ModelCase(1, 16, 1, 32, training=training, vocab=8, d_state=4), CPU)
    assert figure.value > 0 and figure.target is None and figure.peer is None


TINY = ModelConfig(d_model=16, n_layers=1, d_state=4)
CONTESTS = (Contest(16, False, 1, 10.0), Contest(8, True, 1, 50.0))


def test_beside_transformers():
    pytest.importorskip("transformers")
    forward, faster, both, _ = measure_against_transformers(TINY, CONTESTS, vocab=8)
    assert (forward.name, forward.unit) == ("model fwd 1x16 (1,16)", "tokens/s")
    assert forward.peer.name.startswith("transformers 5.")
    assert faster.value == pytest.approx(forward.value / forward.peer.value, rel=1e-3)
    assert (faster.unit, faster.target) == ("x", 10)
    assert both.name == "model fwd+bwd 1x16 (1,8)"


def test_models_that_differ_are_not_compared(monkeypatch):
    pytest.importorskip("transformers")
    exported = against_transformers.in_transformers

    def other(model):
        theirs = exported(model)
        with torch.no_grad():
            theirs.backbone.layers[0].mixer.D.add_(1)
            theirs.backbone.embeddings.weight.add_(1)
        return theirs

    monkeypatch.setattr(against_transformers, "in_transformers", other)
    with pytest.raises(RuntimeError, match="apart"):
        list(measure_against_transformers(TINY, CONTESTS, vocab=8))


def test_without_transformers_a_sentence_says_so(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "transformers", None)
    forward, both = measure_against_transformers(TINY, CONTESTS, vocab=8)
    assert forward.peer is None and both.value > 0
    shown = capsys.readouterr().err
    assert "transformers is not installed" in shown and shown.count("\n") == 1


@pytest.mark.gpu
def test_on_a_gpu(tmp_path, monkeypatch):
    gpu = [
        Case(kernel, 1, 64, 1 if kernel == "selective_step" else 256, 16, 32 if "cross" in kernel else 0)
        for kernel in KERNELS
    ]
    monkeypatch.setattr(cases, "GPU_CASES", gpu)
    monkeypatch.setattr(
        cases, "MODEL_CASES", [ModelCase(1, 64, 1, 256), ModelCase(1, 64, 1, 256, training=False)]
    )
    out = tmp_path / "kernels.json"
    assert main(["bench", "--device", "cuda", "--only", *KERNELS, "models", "--out", str(out)]) == 0
    records = {record["name"]: record for record in read_result(out)["records"]}
    assert all(record["value"] > 0 for record in records.values())
    assert records["train step 1x64 (1,256) peak"]["unit"] == "GiB"
    assert records["scan fwd (1,64,256) N16"]["floor"] > 0
