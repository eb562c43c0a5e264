"""What the GPU kernels take as rows at one distance in memory is that, whatever the strides it came with."""

import pytest
import torch
from kernel_cases import DEVICES
from torch import Tensor

from ssm_seq.kernels import causal_conv1d, selective_scan
from ssm_seq.kernels.rows import even_rows

FORMS = {
    "contiguous": lambda: torch.randn(3, 5, 4),
    "slice of channels": lambda: torch.randn(3, 5, 9)[..., 2:6],
    "slice of time": lambda: torch.randn(3, 9, 4)[:, 2:7],
    "channels first": lambda: torch.randn(3, 4, 5).transpose(1, 2),
    "one sequence, channels first": lambda: torch.randn(1, 4, 5).transpose(1, 2),
    "one position, channels first": lambda: torch.randn(3, 4, 1).transpose(1, 2),
    "one position, time first": lambda: torch.randn(1, 3, 4).transpose(0, 1),
    "one position of many": lambda: torch.randn(3, 9, 4)[:, 2:3],
    "one channel, time first": lambda: torch.randn(5, 3, 1).transpose(0, 1),
    "expanded": lambda: torch.randn(1, 1, 1).expand(3, 5, 4),
}


@pytest.mark.parametrize("form", FORMS)
def test_row_b_t_is_at_b_length_plus_t_rows_from_the_first(form):
    x = FORMS[form]()
    batch, length, channels = x.shape
    rows = even_rows(x)
    read = rows.as_strided((batch * length, channels), (rows.stride(1), 1))
    assert torch.equal(read.view(x.shape), x)


def test_rows_that_are_even_are_not_copied():
    wide = torch.randn(3, 5, 9)
    assert even_rows(wide[..., 2:6]).data_ptr() == wide[..., 2:6].data_ptr()


@pytest.mark.parametrize("device", DEVICES)
def test_a_single_position_that_came_channels_first(device):
    plain = torch.randn(3, 1, 40, generator=torch.Generator().manual_seed(0)).to(device)
    first = torch.empty(3, 40, 1, device=device).copy_(plain.transpose(1, 2)).transpose(1, 2)
    assert first.stride(1) != plain.stride(1)
    A, matrix = -torch.ones(40, 5, device=device), torch.ones(3, 1, 5, device=device)
    weight = torch.ones(40, 4, device=device)

    def results(x: Tensor) -> tuple[Tensor, Tensor]:
        return selective_scan(x, x, A, matrix, matrix, z=x)[0], causal_conv1d(x, weight)[0]

    for found, expected in zip(results(first), results(plain), strict=True):
        assert torch.equal(found, expected)
