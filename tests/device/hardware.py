"""PTX on a CUDA device, with the `launch` of the interpreter's Module: the same tests run on either."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import numpy as np
import torch


class DriverError(RuntimeError):
    """What the CUDA driver refused, in its words."""


class HardwareModule:
    """PTX that the driver has compiled for the current device.

    Arguments are numpy arrays, which are copied to the device and back, or numpy scalars.
    """

    def __init__(self, ptx: str) -> None:
        torch.cuda.synchronize()  # there is a current context
        self.launches = 0
        self._driver = ctypes.CDLL("libcuda.so.1")
        self._module = ctypes.c_void_p()
        self._call("cuModuleLoadData", ctypes.byref(self._module), ctypes.c_char_p(ptx.encode()))

    def launch(
        self,
        name: str,
        grid: tuple[int, int, int],
        block: tuple[int, int, int],
        shared_bytes: int = 0,
        args: Sequence[np.ndarray | np.generic] = (),
        seed: int = 0,
    ) -> None:
        """Runs to the end; `seed` is the interpreter's: here the device decides the order of warps."""
        function = ctypes.c_void_p()
        self._call("cuModuleGetFunction", ctypes.byref(function), self._module, ctypes.c_char_p(name.encode()))
        tensors = {i: _to_device(each) for i, each in enumerate(args) if isinstance(each, np.ndarray)}
        values = [
            ctypes.create_string_buffer(
                bytes(ctypes.c_uint64(tensors[i].data_ptr())) if i in tensors else each.tobytes()
            )
            for i, each in enumerate(args)
        ]
        pointers = (ctypes.c_void_p * len(values))(*map(ctypes.addressof, values))
        sizes = [ctypes.c_uint(size) for size in (*grid, *block, shared_bytes)]
        stream = ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)
        self._call("cuLaunchKernel", function, *sizes, stream, pointers, None)
        torch.cuda.synchronize()
        self.launches += 1
        for i, tensor in tensors.items():
            if args[i].flags.writeable:
                args[i].reshape(-1).view(np.uint8)[...] = tensor.cpu().numpy()

    def _call(self, name: str, *args: object) -> None:
        status = getattr(self._driver, name)(*args)
        if status:
            told = ctypes.c_char_p()
            self._driver.cuGetErrorString(status, ctypes.byref(told))
            raise DriverError(f"{name}: {(told.value or b'unknown error').decode()} ({status})")


def _to_device(array: np.ndarray) -> torch.Tensor:
    if not array.flags.c_contiguous:
        raise ValueError(f"an argument has strides {array.strides}, expected contiguous arrays")
    return torch.from_numpy(array.reshape(-1).view(np.uint8).copy()).cuda()
