"""Diagonal time-invariant systems: the scan that replaces a convolution by FFT, with carried state."""

from ssm_seq.kernels.lti_scan.op import lti_scan

__all__ = ["lti_scan"]
