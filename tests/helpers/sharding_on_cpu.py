"""FSDP in two processes on a CPU, for the scripts that tests launch.

torch shards there, with gloo. accelerate has a list of the devices on which it does; a CPU is not on it, and gets
plain data parallelism whatever the configuration says. Everything but that list is accelerate's own.
"""

from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType


def shard_on_cpu() -> None:
    """Puts the CPU on that list."""
    initialize = AcceleratorState.__init__

    def with_cpu(self, *args, fsdp_plugin=None, **kwargs):
        initialize(self, *args, fsdp_plugin=fsdp_plugin, **kwargs)
        if fsdp_plugin is not None and self.distributed_type == DistributedType.MULTI_CPU:
            self.distributed_type = PartialState._shared_state["distributed_type"] = DistributedType.FSDP
            self.fsdp_plugin = fsdp_plugin
            if self.mixed_precision != "no":
                fsdp_plugin.set_mixed_precision(self.mixed_precision)

    AcceleratorState.__init__ = with_cpu
