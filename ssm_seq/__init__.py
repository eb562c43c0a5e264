"""State-space models on very long sequences: DNA and raw audio, from files to reports."""

__version__ = "0.1.0"
