"""Sequence layers, one a file, all with the contract of `ssm_seq.layers.contract`."""
