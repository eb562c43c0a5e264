"""Embedding, blocks and head: the models that are trained, saved and streamed."""
