"""A causal Transformer layer, to compare with: attention and a feed-forward network side by side."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssm_seq.layers.contract import SequenceLayer, check_chunk

SLOWEST = 10_000.0  # positions in a turn (radian) of the slowest rotary angle


class TransformerState(NamedTuple):
    """keys, values: of all positions so far, keys rotated: (batch, positions, heads, d_model / heads).

    Unlike the state of every other layer it grows with the sequence.
    """

    keys: Tensor
    values: Tensor


class Transformer(SequenceLayer[TransformerState]):
    """y = W [attention(x), GELU(x W_1)], both from one projection of x.

    Vaswani et al. 2017, in the parallel form of GPT-J and PaLM (Chowdhery et al. 2022, section 2), with
    rotary positions (Su et al. 2021). Attention is torch's `scaled_dot_product_attention`.

    Raises:
        ValueError: heads don't divide d_model into parts of even size.
    """

    def __init__(self, d_model: int, heads: int = 1, expand: int = 4) -> None:
        super().__init__()
        if d_model % (2 * heads):
            raise ValueError(f"d_model={d_model}, heads={heads}: expected heads of one even size")
        self.heads, self.parts = heads, [d_model, d_model, d_model, expand * d_model]
        self.in_proj = nn.Linear(d_model, sum(self.parts))
        self.out_proj = nn.Linear(d_model + expand * d_model, d_model)

    def forward(self, x: Tensor, state: TransformerState | None = None) -> tuple[Tensor, TransformerState]:
        check_chunk(x, self.out_proj.out_features)
        *queries_keys_values, hidden = self.in_proj(x).split(self.parts, dim=-1)
        queries, keys, values = (part.unflatten(-1, (self.heads, -1)) for part in queries_keys_values)
        first = 0 if state is None else state.keys.shape[1]
        queries, keys = self._rotated(queries, first), self._rotated(keys, first)
        if state is not None:
            keys = torch.cat([state.keys.to(keys.dtype), keys], dim=1)
            values = torch.cat([state.values.to(values.dtype), values], dim=1)
        from torch.nn.attention.bias import causal_lower_right  # takes seconds, which others need not wait

        mask = causal_lower_right(queries.shape[1], keys.shape[1])
        heads = (part.transpose(1, 2) for part in (queries, keys, values))
        attended = F.scaled_dot_product_attention(*heads, attn_mask=mask).transpose(1, 2).flatten(2)
        y = self.out_proj(torch.cat([attended, F.gelu(hidden)], dim=-1))
        # States are float32 at least, as those of all layers.
        dtype = torch.promote_types(keys.dtype, torch.float32)
        return y, TransformerState(keys.to(dtype), values.to(dtype))

    def step(self, x_t: Tensor, state: TransformerState) -> tuple[Tensor, TransformerState]:
        y, state = self(x_t[:, None], state)
        return y[:, 0], state

    def _rotated(self, x: Tensor, first: int) -> Tensor:
        """x (batch, length, heads, size) turned by its positions, the first of which is `first`."""
        # In float32 the angles of positions past a million would be off by a tenth of a radian.
        exact = {"device": x.device, "dtype": torch.float64}
        pairs = x.shape[-1] // 2
        positions = torch.arange(first, first + x.shape[1], **exact)
        angles = positions[:, None, None] * SLOWEST ** (-torch.arange(pairs, **exact) / pairs)
        cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
        a, b = x.chunk(2, dim=-1)
        return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)

    def initial_state(
        self, batch: int, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> TransformerState:
        weight = self.out_proj.weight
        none = torch.zeros(
            (batch, 0, self.heads, weight.shape[0] // self.heads),
            device=device or weight.device,
            dtype=dtype or weight.dtype,
        )
        return TransformerState(none, none)

    def ssm_parameters(self) -> list[nn.Parameter]:
        return []
