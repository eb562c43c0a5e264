"""What is measured: shapes, the targets for one H100, and what mamba-ssm and causal-conv1d reached there."""

from dataclasses import dataclass

import torch

MILLION = 1 << 20
RECORDED = (
    "Recorded figures of peers: mamba-ssm 2.3.2.post1 and causal-conv1d 1.7.0 compiled for sm_90, torch "
    "2.11.0+cu130, medians of CUDA-event timings on one NVIDIA H100 80GB HBM3, 2026-11-22"
)

Pair = tuple[float | None, float | None]


@dataclass(frozen=True)
class Case:
    """One shape of a kernel. target, peer: ms of (forward, forward + backward), for an H100.

    channels: d_model where a kernel has both. positions: length, 1 for a step. d_state, vocab: 0 where there
    is none. target_peak, peer_peak: GiB of forward + backward.
    """

    kernel: str
    batch: int
    channels: int
    length: int
    d_state: int = 0
    vocab: int = 0
    dtype: torch.dtype = torch.bfloat16
    target: Pair = (None, None)
    peer: Pair = (None, None)
    target_peak: float | None = None
    peer_peak: float | None = None

    @property
    def passes(self) -> tuple[str, ...]:
        return ("fwd",) if self.kernel == "selective_step" else ("fwd", "fwd+bwd")

    def name(self, which: str) -> str:
        sizes = (self.batch, self.channels, self.length)
        shape = ",".join(map(str, sizes[:2] if self.kernel == "selective_step" else sizes))
        parts = [f"{self.kernel} {which} ({shape})"]
        parts += [f"N{self.d_state}"] if self.d_state else []
        parts += [f"V{self.vocab}"] if self.vocab else []
        parts += ["float32"] if self.dtype == torch.float32 else []
        return " ".join(parts)


GPU_CASES = [
    Case("scan", 1, 512, MILLION, 16, target=(4.7, 24), peer=(11.82, 71.69)),
    Case("scan", 1, 256, MILLION, 16, target=(2.5, 12), peer=(9.94, 36.15)),
    Case("scan", 1, 2048, 16384, 16, target=(0.30, 1.25), peer=(0.75, 3.71)),
    Case("scan", 8, 2048, 2048, 16, target=(0.35, 1.5), peer=(0.595, 3.04)),
    Case("scan", 64, 512, 2048, 16, target=(0.60, 3.0), peer=(1.17, 6.05)),
    Case("scan", 1, 512, MILLION, 64, target=(16, 90), peer=(40.7, 269.4)),
    Case("scan", 1, 512, 8192, 16),
    Case("scan", 1, 512, 32768, 16),
    Case("scan", 1, 512, 131072, 16, peer=(1.49, 8.95)),
    Case("scan", 1, 512, 4 * MILLION, 16),
    Case("scan", 1, 2048, 131072, 16, peer=(5.99, 28.74)),
    Case("scan", 32, 512, 1024, 16, peer=(0.295, 1.54)),
    Case("scan", 4, 1536, 8192, 16, peer=(1.05, 4.75)),
    Case("scan", 2, 1536, 65536, 16, peer=(4.42, 19.66)),
    Case("scan", 1, 512, MILLION, 16, dtype=torch.float32, peer=(28.4, 100.1)),
    Case("conv", 8, 2048, 2048, peer=(0.059, 0.58)),
    Case("conv", 1, 512, MILLION, target=(0.8, 2.2), peer=(1.07, 2.48)),
    Case("lti_scan", 1, 256, MILLION, 64, dtype=torch.float32, target=(8.0, 21.4), target_peak=5.5),
    Case("lti_scan", 1, 256, MILLION, 64),
    Case("lti_scan", 8, 256, 16384, 64, dtype=torch.float32),
    Case("s4d", 1, 256, MILLION, 64, dtype=torch.float32),
    Case("s4d", 1, 256, MILLION, 64),
    Case("rms_norm", 1, 256, MILLION),
    Case("rms_norm", 8, 1024, 2048),
    Case("linear_cross_entropy", 1, 256, MILLION, vocab=256),
    Case("linear_cross_entropy", 8, 768, 2048, vocab=50280),
    Case("mixer", 1, 256, MILLION, 16, target=(8, 34), peer=(16.4, 85.7), target_peak=5, peer_peak=11.4),
    Case("mixer", 1, 256, 131072, 16, peer=(2.00, 10.6), peer_peak=1.42),
    Case("mixer", 8, 1024, 2048, 16, peer=(1.02, 4.38), peer_peak=0.69),
    Case("selective_step", 1, 512, 1, 16),
    Case("selective_step", 64, 2048, 1, 16),
]

CPU_CASES = [
    Case("scan", 1, 256, 16384, 16, dtype=torch.float32),
    Case("conv", 1, 256, 16384, dtype=torch.float32),
    Case("lti_scan", 8, 64, 1024, 32, dtype=torch.float32),
    Case("lti_scan", 8, 128, 4096, 64, dtype=torch.float32),
    Case("s4d", 8, 128, 4096, 64, dtype=torch.float32),
    Case("rms_norm", 1, 256, 16384, dtype=torch.float32),
    Case("linear_cross_entropy", 1, 256, 16384, vocab=256, dtype=torch.float32),
    Case("mixer", 1, 128, 16384, 16, dtype=torch.float32),
    Case("selective_step", 1, 512, 1, 16, dtype=torch.float32),
]


@dataclass(frozen=True)
class ModelCase:
    """One language model of Mamba blocks; training: forward, loss, backward and AdamW, else logits only.

    target, peer: ms; target_peak, peer_peak: GiB; peer_note: why the peer has no time.
    """

    layers: int
    d_model: int
    batch: int
    length: int
    training: bool = True
    target: float | None = None
    peer: float | None = None
    target_peak: float | None = None
    peer_peak: float | None = None
    peer_note: str = ""
    vocab: int = 256
    d_state: int = 16

    @property
    def name(self) -> str:
        what = "train step" if self.training else "model fwd"
        return f"{what} {self.layers}x{self.d_model} ({self.batch},{self.length})"


MODEL_CASES = [
    ModelCase(8, 256, 1, 131072, peer=96.2, peer_peak=5.9),
    ModelCase(8, 256, 1, 131072, training=False, peer=17.3),
    ModelCase(24, 768, 8, 2048, target=60, peer=84.0, peer_peak=5.8),
    ModelCase(24, 768, 8, 2048, training=False, peer=18.8),
    ModelCase(8, 256, 1, MILLION, target=310, peer=776, target_peak=16, peer_peak=47.3),
    ModelCase(8, 256, 1, MILLION, training=False, peer=139.6),
    ModelCase(8, 256, 1, 2 * MILLION, target_peak=80, peer_note="out of memory"),
    ModelCase(8, 256, 1, 4 * MILLION, target_peak=80, peer_note="out of memory at half the length"),
]
