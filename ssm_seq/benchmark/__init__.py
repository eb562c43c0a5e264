"""Times and memory of kernels and models beside floors, targets and peers (ssm-seq bench)."""
