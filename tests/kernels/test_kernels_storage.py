import torch
from torch import Tensor

from ssm_seq.kernels.storage import in_own_memory


def halves(x: Tensor) -> list[Tensor]:
    first, second = x.sum(1)
    return [first, second, x.new_empty(0), x.new_empty(0)]


def test_parts_of_one_sum_come_apart():
    x = torch.arange(12.0).view(2, 2, 3)
    first, second, *empty = in_own_memory(halves)(x)
    assert torch.equal(torch.stack([first, second]), x.sum(1))
    assert first.untyped_storage().data_ptr() != second.untyped_storage().data_ptr()
    assert [tensor.numel() for tensor in empty] == [0, 0]


def test_an_operator_takes_it():
    # Whether PyTorch looks for shared memory depends on a setting; opcheck always looks.
    operator = torch.library.custom_op("ssm_seq_test::halves", in_own_memory(halves), mutates_args=())
    operator.register_fake(lambda x: [x.new_empty(size) for size in (x.shape[2], x.shape[2], 0, 0)])
    torch.library.opcheck(operator, (torch.arange(12.0).view(2, 2, 3),))
