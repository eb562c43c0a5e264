"""Other libraries' function signatures and checkpoint layouts, on this library's kernels and models.

mamba_ssm: functions with the names, arguments and layouts of mamba-ssm 2.3 and causal-conv1d 1.7.
checkpoints: Mamba-1 language models in the layouts of mamba-ssm and transformers.
"""
