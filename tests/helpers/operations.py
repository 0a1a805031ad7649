"""What torch runs, counted."""

from collections import Counter

from torch.utils._python_dispatch import TorchDispatchMode


READS_A_VALUE = "aten._local_scalar_dense.default"
"""The operation that brings a value to the host, for which an accelerator would wait."""


class Operations(TorchDispatchMode):
    """Counts the operations that run inside, by their names."""

    def __init__(self):
        super().__init__()
        self.counts = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.counts[str(function)] += 1
        return function(*args, **(kwargs or {}))
