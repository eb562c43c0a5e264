import pytest
import torch
from kernel_cases import (
    DEVICES,
    FORWARD,
    GRADIENT,
    ROUNDED_FORWARD,
    ROUNDED_GRADIENT,
    assert_close,
    error,
    in_double,
    with_gradients,
)

from ssm_seq.kernels import mamba_mixer
from ssm_seq.kernels.mamba_mixer import arguments as mixer_arguments
from ssm_seq.kernels.mamba_mixer import definition, pieces, walk

SHAPES = [(2, 70, 12), (1, 1, 1), (3, 33, 20), (1, 64, 8), (1, 3, 5)]


def mixer_inputs(batch, length, d_model, device="cpu", dtype=torch.float32, **options):
    """The arguments of a new layer, and states."""
    arguments = mixer_arguments.new_layer(
        batch, length, d_model, device=device, dtype=dtype, **{"d_state": 4, **options}
    )
    d_inner, d_state = arguments["A"].shape
    generator = torch.Generator().manual_seed(1)
    shapes = {"conv_state": (arguments["conv_weight"].shape[1] - 1, d_inner), "ssm_state": (d_inner, d_state)}
    for name, shape in shapes.items():
        arguments[name] = torch.randn(batch, *shape, generator=generator).to(arguments["A"])
    arguments["conv_state"] = arguments["conv_state"].to(dtype)
    return arguments


def in_two(mixer):
    """The mixer with both states as one vector, as the shared measure wants it."""

    def function(**arguments):
        out, conv, ssm = mixer(**arguments)
        return out, torch.cat([conv.flatten().to(ssm), ssm.flatten()])

    return function


CUTS = {  # positions of STEP, positions times channels of a forward and of a backward piece, bytes of states
    "whole": {},
    "whole, u and z made again": {"PROJECTED": 0},
    "rows": {"FORWARD": 1, "BACKWARD": 1},
    "times": {"STEP": 32, "FORWARD": 1, "BACKWARD": 1},
    "times, states made again": {"STEP": 32, "BACKWARD": 1, "KEPT": 0},
    "rows on the way back": {"BACKWARD": 1},
    "times on the way back": {"STEP": 32, "BACKWARD": 1},
    "times, shorter on the way back": {"STEP": 32, "FORWARD": 64 * 24, "BACKWARD": 1},
}


@pytest.fixture(params=CUTS)
def cut(request, monkeypatch):
    """Every way to cut: not at all, a row at a time, or time in parts of 32, with and without kept states."""
    for name, value in CUTS[request.param].items():
        monkeypatch.setattr(pieces, name, value)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_everything_agrees_with_the_definition(shape, cut, device, poisoned):
    arguments = mixer_inputs(*shape, device=device)
    expected = with_gradients(in_two(definition.mamba_mixer), in_double(arguments))
    assert_close(with_gradients(in_two(mamba_mixer), arguments), expected, FORWARD, GRADIENT)


@pytest.mark.parametrize("device", DEVICES)
def test_float64_is_exact(cut, device):
    arguments = mixer_inputs(2, 70, 6, device=device, dtype=torch.float64)
    expected = with_gradients(in_two(definition.mamba_mixer), arguments)
    assert_close(with_gradients(in_two(mamba_mixer), arguments), expected, 1e-13, 1e-13)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_rounded_inputs(dtype, cut, device, poisoned):
    arguments = mixer_inputs(2, 100, 32, device=device, dtype=dtype, d_state=16)
    found = with_gradients(in_two(mamba_mixer), arguments)
    assert found["y"].dtype == dtype
    assert all(found[f"d{name}"].dtype == tensor.dtype for name, tensor in arguments.items())
    expected = with_gradients(in_two(definition.mamba_mixer), in_double(arguments))
    assert_close(found, expected, ROUNDED_FORWARD, ROUNDED_GRADIENT)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("absent", ["conv_bias", "conv_state", "ssm_state"])
def test_each_option_can_be_left_out(absent, cut, device, poisoned):
    arguments = {**mixer_inputs(2, 70, 12, device=device), absent: None}
    expected = with_gradients(in_two(definition.mamba_mixer), in_double(arguments))
    assert_close(with_gradients(in_two(mamba_mixer), arguments), expected, FORWARD, GRADIENT)


@pytest.mark.parametrize("device", DEVICES)
def test_other_sizes(cut, device):
    for options in ({"width": 1}, {"width": 2, "expand": 1, "d_state": 1}, {"expand": 3, "d_state": 33}):
        arguments = mixer_inputs(1, 40, 24, device=device, **options)
        expected = with_gradients(in_two(definition.mamba_mixer), in_double(arguments))
        assert_close(with_gradients(in_two(mamba_mixer), arguments), expected, FORWARD, GRADIENT)


@pytest.mark.parametrize("device", DEVICES)
def test_chunks_with_carried_states_are_the_whole(cut, device):
    arguments = mixer_inputs(2, 97, 12, device=device)
    x, conv, ssm = (arguments.pop(name) for name in ("x", "conv_state", "ssm_state"))
    whole, last_conv, last_ssm = mamba_mixer(x, **arguments, conv_state=conv, ssm_state=ssm)
    parts = []
    for start, end in [(0, 1), (1, 3), (3, 66), (66, 97)]:
        out, conv, ssm = mamba_mixer(x[:, start:end], **arguments, conv_state=conv, ssm_state=ssm)
        parts.append(out)
    assert error(torch.cat(parts, 1), whole) < 1e-6
    assert error(conv, last_conv) < 1e-6
    assert error(ssm, last_ssm) < 1e-6


@pytest.mark.parametrize("device", DEVICES)
def test_one_output_alone(cut, device):
    arguments = mixer_inputs(2, 50, 6, device=device, dtype=torch.float64)
    arguments["x"].requires_grad_()
    for choose in range(3):
        found, expected = (
            torch.autograd.grad(mixer(**arguments)[choose].sum(), arguments["x"])[0]
            for mixer in (mamba_mixer, definition.mamba_mixer)
        )
        assert error(found, expected) < 1e-12


@pytest.mark.parametrize("device", DEVICES)
def test_products_follow_autocast(cut, device):
    arguments = mixer_inputs(2, 70, 32, device=device)
    rounded = {
        name: tensor.bfloat16() if name in ("x", "in_proj", "x_proj", "dt_proj", "out_proj") else tensor
        for name, tensor in arguments.items()
    }
    with torch.autocast(device, torch.bfloat16):
        found = with_gradients(in_two(mamba_mixer), arguments)
        alike = with_gradients(in_two(definition.mamba_mixer), arguments)
    assert found["y"].dtype == alike["y"].dtype == torch.bfloat16
    assert all(found[f"d{name}"].dtype == torch.float32 for name in arguments)
    expected = with_gradients(in_two(definition.mamba_mixer), in_double(rounded))
    assert_close(found, expected, ROUNDED_FORWARD, ROUNDED_GRADIENT)


@pytest.mark.parametrize("device", DEVICES)
def test_strided_inputs(device):
    arguments = mixer_inputs(2, 50, 16, device=device)
    expected = with_gradients(in_two(mamba_mixer), arguments)
    strided = {**arguments, "x": arguments["x"].transpose(0, 1).contiguous().transpose(0, 1)}
    for name in ("in_proj", "conv_weight", "x_proj", "dt_proj", "A", "out_proj"):
        strided[name] = arguments[name].t().contiguous().t()
    strided["ssm_state"] = arguments["ssm_state"].transpose(1, 2).contiguous().transpose(1, 2)
    out, conv, ssm = mamba_mixer(**strided)
    assert error(out, expected["y"]) < 1e-6
    assert error(torch.cat([conv.flatten(), ssm.flatten()]), expected["state"]) < 1e-6


@pytest.mark.parametrize("device", DEVICES)
def test_an_expanded_gradient(cut, device):
    arguments = mixer_inputs(2, 40, 8, device=device, dtype=torch.float64)
    arguments["x"].requires_grad_()
    found, expected = (
        torch.autograd.grad(mixer(**arguments)[0].sum(), arguments["x"])[0]
        for mixer in (mamba_mixer, definition.mamba_mixer)
    )
    assert error(found, expected) < 1e-12


def test_gradcheck():
    arguments = mixer_inputs(1, 4, 2, dtype=torch.float64, d_state=2)
    tensors = [tensor.requires_grad_() for tensor in arguments.values()]

    def function(*tensors):
        return mamba_mixer(**dict(zip(arguments, tensors, strict=True)))

    assert torch.autograd.gradcheck(function, tensors)


@pytest.mark.parametrize("device", DEVICES)
def test_operator_contract(cut, device):
    arguments = mixer_inputs(2, 70, 6, device=device)
    tensors = [tensor.requires_grad_() for tensor in arguments.values()]
    torch.library.opcheck(torch.ops.ssm_seq.mamba_mixer.default, (*tensors, True))


@pytest.mark.parametrize("device", DEVICES)
def test_compiles_as_one_graph(cut, device):
    torch.compiler.reset()
    compiled = torch.compile(in_two(mamba_mixer), fullgraph=True, backend="aot_eager", dynamic=True)
    with torch._dynamo.config.patch(error_on_recompile=True):
        for length in (40, 71, 100):
            arguments = mixer_inputs(2, length, 6, device=device)
            expected = with_gradients(in_two(mamba_mixer), arguments)
            assert_close(with_gradients(compiled, arguments), expected, 1e-6, 1e-6)


def test_compiles_under_autocast():
    torch.compiler.reset()
    compiled = torch.compile(in_two(mamba_mixer), fullgraph=True, backend="aot_eager")
    arguments = mixer_inputs(1, 20, 16)
    with torch.autocast("cpu", torch.bfloat16):
        expected = with_gradients(in_two(mamba_mixer), arguments)
        found = with_gradients(compiled, arguments)
    assert found["y"].dtype == torch.bfloat16
    assert_close(found, expected, 1e-6, 1e-6)


def test_saves_inputs_and_kept_states_only(cut, monkeypatch):
    monkeypatch.setattr(pieces, "PROJECTED", 0)
    arguments = {name: tensor.requires_grad_() for name, tensor in mixer_inputs(2, 256, 16).items()}
    saved = {}

    def note(tensor):
        saved[tensor.data_ptr()] = tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        mamba_mixer(**arguments)
    own = {tensor.data_ptr() for tensor in arguments.values()}
    d_inner, d_state = arguments["A"].shape
    made = sum(size for place, size in saved.items() if place not in own)
    lanes = 64  # channels are filled up to this many on a CPU
    assert made <= 2 * (256 // 32) * d_state * max(d_inner, lanes)


@pytest.mark.parametrize("most", [2**13, 2**13 - 1], ids=["small", "large"])
def test_u_and_z_are_kept_where_they_are_small(most, monkeypatch):
    monkeypatch.setattr(pieces, "PROJECTED", most)
    product, projected = walk._before_conv, []
    monkeypatch.setattr(walk, "_before_conv", lambda *given: projected.append(1) or product(*given))
    arguments = {name: tensor.requires_grad_() for name, tensor in mixer_inputs(2, 32, 8).items()}
    out, _, _ = mamba_mixer(**arguments)  # u and z: 2 * 2 * 32 * 16 values of 4 bytes
    assert len(projected) == 1
    out.sum().backward()
    assert len(projected) == (1 if most == 2**13 else 2)


def test_nothing_is_saved_without_gradients():
    arguments = mixer_inputs(2, 40, 8)
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: pytest.fail("saved"), lambda tensor: tensor):
        out, conv, ssm = mamba_mixer(**arguments)
        arguments["x"].requires_grad_()
        with torch.no_grad():
            mamba_mixer(**arguments)
    assert not (out.requires_grad or conv.requires_grad or ssm.requires_grad)


def assert_in_order(parts, batch, length, channels, segment):
    """They cover everything once, row after row, none of them larger than `segment` if that can be."""
    row, position = 0, 0
    for rows, times in parts:
        assert (rows.start, times.start) == (row, position)
        assert rows.start < rows.stop <= batch
        assert times.start < times.stop <= length
        assert times.stop == length or times.stop % pieces.STEP == 0
        height, width = rows.stop - rows.start, times.stop - times.start
        assert height == 1 or width == length
        assert height * width * channels <= segment
        row, position = (rows.stop, 0) if times.stop == length else (row, times.stop)
    assert (row, position) == (batch, 0)


@pytest.mark.parametrize("batch", [1, 2, 5, 64])
@pytest.mark.parametrize("length", [1, 511, 2**17, 2**17 + 1, 10**6 + 3])
@pytest.mark.parametrize("channels", [1, 500, 512, 3000])
def test_pieces_cover_everything_once_in_order(batch, length, channels):
    for keep, keeps, segment in [
        (False, False, pieces.FORWARD),
        (True, True, pieces.FORWARD),
        (True, False, pieces.BACKWARD),
    ]:
        outer = list(pieces.forward_pieces(batch, length, channels, keep, keeps))
        assert_in_order(outer, batch, length, channels, segment)
        inner = [list(pieces.backward_pieces(*piece, channels)) for piece in outer]
        assert_in_order([part[:2] for piece in inner for part in piece], batch, length, channels, segment)
        for (rows, times), parts in zip(outer, inner, strict=True):
            height, width = rows.stop - rows.start, times.stop - times.start
            assert_in_order([part[2:] for part in parts], height, width, channels, pieces.BACKWARD)
            assert keeps or not keep or len(parts) == 1
        if keep and not keeps:
            rows_alone = len({piece[0].start for piece in outer})
            assert len(outer) == rows_alone * pieces.backward_parts(length, channels)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("x", torch.zeros(2, 3), r"x has shape \(2, 3\), expected \(batch, length, d_model\)"),
        ("x", torch.zeros(2, 0, 6), "no axis empty"),
        ("in_proj", torch.zeros(12, 6), r"in_proj has shape \(12, 6\), expected \(2 \* d_inner, d_model\)"),
        ("conv_weight", torch.zeros(6, 4), r"conv_weight has shape .* = \(12, 4\)"),
        ("conv_bias", torch.zeros(6), "conv_bias has shape"),
        ("x_proj", torch.zeros(8, 12), r"x_proj has shape \(8, 12\), expected .* = \(9, 12\)"),
        ("dt_proj", torch.zeros(12), r"dt_proj has shape \(12,\), expected \(d_inner, dt_rank\)"),
        ("dt_bias", torch.zeros(12, dtype=torch.int32), r"dt_bias has shape .* dtype torch.int32"),
        ("D", torch.zeros(12, 1), "D has shape"),
        ("out_proj", torch.zeros(12, 6), r"out_proj has shape .* = \(6, 12\)"),
        ("conv_state", torch.zeros(2, 4, 12), r"conv_state has shape .* = \(2, 3, 12\)"),
        ("ssm_state", torch.zeros(1, 12, 4), r"ssm_state has shape .* = \(2, 12, 4\)"),
        ("ssm_state", torch.zeros(2, 12, 4, device="meta"), "ssm_state lies on meta, expected cpu"),
    ],
)
def test_what_does_not_fit_is_named(name, value, message):
    with pytest.raises(ValueError, match=message):
        mamba_mixer(**{**mixer_inputs(2, 5, 6), name: value})


@pytest.mark.gpu
def test_captured_in_a_graph(cut):
    arguments = mixer_inputs(2, 600, 32, device="cuda", dtype=torch.bfloat16, d_state=16)
    leaves = {name: tensor.requires_grad_() for name, tensor in arguments.items()}
    dout = torch.ones_like(leaves["x"])

    def run():
        out, _, _ = mamba_mixer(**leaves)
        return [out.detach(), *torch.autograd.grad(out, list(leaves.values()), dout)]

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        eager = run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = run()
    for tensor in captured:
        tensor.fill_(float("nan"))
    graph.replay()
    assert all(torch.equal(*pair) for pair in zip(captured, eager, strict=True))


@pytest.mark.gpu
def test_a_million_positions_within_5_gib():
    arguments = mixer_arguments.new_layer(1, 2**20, 256)
    leaves = {name: tensor.requires_grad_() for name, tensor in arguments.items()}
    dout = torch.randn_like(arguments["x"])
    torch.cuda.reset_peak_memory_stats()
    out, _, _ = mamba_mixer(**leaves)
    torch.autograd.grad(out, list(leaves.values()), dout)
    assert torch.cuda.max_memory_allocated() <= 5 * 2**30
