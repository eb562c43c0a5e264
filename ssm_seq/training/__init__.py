"""One training loop that can be killed at any moment and goes on where it was."""

from ssm_seq.training.loop import train

__all__ = ["train"]
