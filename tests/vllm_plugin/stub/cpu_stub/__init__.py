"""A Triton backend for a machine without a GPU, with which vLLM's V2 model runner starts.

With `TRITON_INTERPRET=1` Triton runs its kernels as Python, so nothing here compiles anything.
"""
