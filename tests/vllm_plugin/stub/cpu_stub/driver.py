from triton.backends.compiler import GPUTarget
from triton.backends.driver import DriverBase


class StubDriver(DriverBase):
    @staticmethod
    def is_active():
        return True

    def get_current_target(self):
        return GPUTarget("cpu", 0, 0)

    def map_python_to_cpp_type(self, ty):
        raise NotImplementedError

    get_active_torch_device = get_benchmarker = get_empty_cache_for_benchmark = map_python_to_cpp_type
