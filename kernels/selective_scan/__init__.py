"""Selective scan: the recurrence of S6 with input-dependent delta, B and C."""

from ssm_seq.kernels.selective_scan.op import selective_scan
from ssm_seq.kernels.selective_scan.step import selective_step

__all__ = ["selective_scan", "selective_step"]
