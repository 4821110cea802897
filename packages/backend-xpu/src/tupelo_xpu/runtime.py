"""An Intel GPU as a machine whose steps have a stream of their own."""

from tupelo.backend.stream_runtime import StreamRuntime


class XpuRuntime(StreamRuntime):
    """``StreamRuntime``, also where a driver does not tell how much memory is free."""

    def memory(self) -> tuple[int, int]:
        try:
            return super().memory()
        except RuntimeError:  # GPUs that share the host's memory, and Level Zero without Sysman
            total = int(self._module.get_device_properties(self.device).total_memory)
            return total - int(self._module.memory_reserved(self.device)), total
