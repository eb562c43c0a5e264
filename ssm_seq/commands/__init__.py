"""The console script `ssm-seq`: thin entry points over importable functions."""
