"""What the CPU kernels share: vectors in compiled code, and threads."""
