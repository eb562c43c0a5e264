"""Recurrent mode: sequences of any length in constant memory, and generation."""
