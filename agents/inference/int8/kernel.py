"""torch's weight-only int8 product and its BLAS, called through C interfaces.

torch's library is in the process already, for its BLAS (``agents/inference/mlx/cpu.py``). The int8 product is called
through the interface of compiled models, ``torch/csrc/inductor/aoti_torch/c/shim.h``, which promises to stay
compatible. Importing torch itself would take two seconds and 370 MB more.
"""

import ctypes
import math
import os
from functools import cache, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

Floats = NDArray[np.float32]
Bits = NDArray[np.uint16]

_Handle = ctypes.c_void_p


class KernelUnavailable(Exception):
    """There is no such kernel here; the message says why."""


ALIGNMENT = 64
"""Bytes of which the address of an array is a multiple, as those of torch's own are: the kernel's AVX-512 loads end the
process at other addresses."""

INPUTS = 16
"""The kernel reads so many inputs at once, and passes over what is left, or reads beyond it."""


class Int8Product:
    """Multiplies tokens by the transposed ``numbers`` (outputs, inputs) of int8, with a scale for each output.

    ``numbers`` is not copied, must be contiguous and :func:`is_aligned`, and its inputs a multiple of :data:`INPUTS`;
    the scales (outputs,) are rounded to bfloat16. Calls belong to one thread.

    Raises:
        KernelUnavailable: torch's library is not loaded, or lacks the kernel.
        ValueError: the numbers are not laid out so.
    """

    def __init__(self, numbers: NDArray[np.int8], scales: Floats) -> None:
        self._library = _load()
        self._outputs, inputs = numbers.shape
        if inputs % INPUTS or not (numbers.flags.c_contiguous and is_aligned(numbers)):
            raise ValueError(f"the kernel cannot read {numbers.shape} numbers at {numbers.ctypes.data:#x}")
        bits = allocate(scales.shape, np.uint16)
        round_to_bfloat16(scales, bits)
        self._weight, self._scales = _Tensor(numbers, "int8"), _Tensor(bits, "bfloat16")

    def __call__(self, tokens: Floats) -> Floats:
        """``tokens`` (tokens, inputs) to (tokens, outputs). Both are rounded to bfloat16."""
        library, product, address = self._library, _Handle(), ctypes.c_void_p()
        source = _input_tensor(*tokens.shape)
        round_to_bfloat16(tokens, source.array)
        _check(
            library.aoti_torch_cpu__weight_int8pack_mm(
                source.handle, self._weight.handle, self._scales.handle, ctypes.byref(product)
            )
        )
        try:
            _check(library.aoti_torch_get_data_ptr(product, ctypes.byref(address)))
            assert address.value is not None
            memory = (ctypes.c_uint16 * (len(tokens) * self._outputs)).from_address(address.value)
            return widen(np.frombuffer(memory, np.uint16)).reshape(len(tokens), self._outputs)
        finally:
            library.aoti_torch_delete_tensor_object(product)


class _Tensor:
    """A tensor over the memory of a contiguous array; bfloat16 numbers are held as uint16."""

    def __init__(self, array: NDArray[Any], kind: str) -> None:
        self.array, self.handle = array, _Handle()
        _check(
            _load().aoti_torch_create_tensor_from_blob(
                array.ctypes.data,
                array.ndim,
                (ctypes.c_int64 * array.ndim)(*array.shape),
                (ctypes.c_int64 * array.ndim)(*(stride // array.itemsize for stride in array.strides)),
                0,
                _constant(f"aoti_torch_dtype_{kind}"),
                _constant("aoti_torch_device_type_cpu"),
                0,
                ctypes.byref(self.handle),
            )
        )

    def __del__(self) -> None:
        _load().aoti_torch_delete_tensor_object(self.handle)


def is_aligned(array: NDArray[Any]) -> bool:
    """Whether the kernel may read the array where it lies."""
    return int(array.ctypes.data) % ALIGNMENT == 0


def allocate(shape: tuple[int, ...], kind: type[Any]) -> NDArray[Any]:
    """An array, not yet written, that the kernel may read."""
    size = math.prod(shape) * np.dtype(kind).itemsize
    room = np.empty(size + ALIGNMENT, np.uint8)
    start = -room.ctypes.data % ALIGNMENT
    array: NDArray[Any] = room[start : start + size].view(kind).reshape(shape)
    return array


def round_to_bfloat16(numbers: Floats, into: Bits) -> None:
    """Write the nearest bfloat16 numbers; of two that are equally near the larger one."""
    bits = numbers.view(np.uint32) + np.uint32(0x8000)
    bits >>= np.uint32(16)
    into[...] = bits


def widen(bits: Bits) -> Floats:
    """bfloat16 numbers in float32."""
    wide = bits.astype(np.uint32)
    wide <<= np.uint32(16)
    return wide.view(np.float32)


def multiply_floats(tokens: Floats, weights: Floats, into: Floats, *, begin: int) -> None:
    """Write ``tokens`` (tokens, inputs) times the transposed ``weights`` (outputs, inputs) into the columns of ``into``
    from ``begin`` on. All arrays are contiguous."""
    outputs, inputs = weights.shape
    _load().sgemm_(
        b"T",
        b"N",
        ctypes.byref(ctypes.c_int(outputs)),
        ctypes.byref(ctypes.c_int(len(tokens))),
        ctypes.byref(ctypes.c_int(inputs)),
        ctypes.byref(ctypes.c_float(1.0)),
        weights.ctypes.data_as(ctypes.c_void_p),
        ctypes.byref(ctypes.c_int(inputs)),
        tokens.ctypes.data_as(ctypes.c_void_p),
        ctypes.byref(ctypes.c_int(inputs)),
        ctypes.byref(ctypes.c_float(0.0)),
        ctypes.c_void_p(into.ctypes.data + begin * into.itemsize),
        ctypes.byref(ctypes.c_int(into.shape[1])),
    )


def use_threads() -> None:
    """Let products that the calling thread makes use half of the cores, and at least two.

    float32 products wait for memory, so that one thread serves them; the int8 kernel is bound by the cores. NumPy's own
    BLAS keeps to one thread: its pool and torch's would take the cores from each other.
    """
    numbers, cores = allocate((1, 64), np.int8), os.cpu_count() or 1
    Int8Product(numbers, np.ones(1, np.float32))(np.zeros((1, 64), np.float32))  # torch sets its own number at first
    threads = min(cores, max(2, cores // 2))
    _load().omp_set_num_threads(threads)
    _load().MKL_Set_Num_Threads_Local(threads)
    threadpool_limits(1, user_api="blas")


@lru_cache(maxsize=256)
def _input_tensor(tokens: int, inputs: int) -> _Tensor:
    return _Tensor(allocate((tokens, inputs), np.uint16), "bfloat16")


def _check(code: int) -> None:
    if code:
        raise KernelUnavailable(f"torch's int8 kernel refuses its arguments (code {code})")


@cache
def _load() -> Any:
    library = ctypes.CDLL(None)  # torch's library was loaded with global symbols
    try:
        handle, pointer = ctypes.POINTER(_Handle), ctypes.POINTER(ctypes.c_int64)
        library.aoti_torch_cpu__weight_int8pack_mm.argtypes = [_Handle, _Handle, _Handle, handle]
        library.aoti_torch_get_data_ptr.argtypes = [_Handle, handle]
        library.aoti_torch_delete_tensor_object.argtypes = [_Handle]
        library.aoti_torch_create_tensor_from_blob.argtypes = [
            ctypes.c_void_p, ctypes.c_int64, pointer, pointer, ctypes.c_int64,
            ctypes.c_int32, ctypes.c_int32, ctypes.c_int32, handle,
        ]  # fmt: skip
        for name in ("sgemm_", "omp_set_num_threads", "MKL_Set_Num_Threads_Local"):
            getattr(library, name)
    except AttributeError as error:
        raise KernelUnavailable(f"torch's library is not loaded, or has no int8 kernel ({error})") from error
    return library


@cache
def _constant(name: str) -> int:
    return int(getattr(_load(), name)())
