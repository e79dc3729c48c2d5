"""The kernels by themselves, on any Device: arrays in, arrays out. Used on the host and on a GPU alike."""

import ctypes
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segpipe.contract.schema import Contract, Placement
from segpipe.runtime.cuda.device import Device
from segpipe.runtime.cuda.geometry import Tables, canvas_tables, mask_tables
from segpipe.runtime.cuda.kernels import KINDS, BlendArguments, Kernels, PreArguments, ScoreArguments
from segpipe.runtime.preprocess import normalisation
from segpipe.runtime.tiling import Cut

Tiles = dict[tuple[int, int], NDArray[Any]]


class Bench:
    """Device memory for the length of one call."""

    def __init__(self, device: Device, kernels: Kernels) -> None:
        self.device, self.kernels = device, kernels
        self.stream = device.create_stream()
        self._memory: list[int] = []

    def put(self, array: NDArray[Any]) -> int:
        """A copy on the device."""
        pointer = self.room(array.nbytes)
        self.device.upload(pointer, np.ascontiguousarray(array).reshape(-1).view(np.uint8), self.stream)
        self.device.synchronize(self.stream)
        return pointer

    def room(self, size_bytes: int) -> int:
        """Memory on the device."""
        self._memory.append(self.device.allocate(size_bytes))
        return self._memory[-1]

    def get(self, pointer: int, shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
        """A copy on the host."""
        array = np.empty(shape, dtype)
        self.device.download(array.reshape(-1).view(np.uint8), pointer, self.stream)
        self.device.synchronize(self.stream)
        return array

    def tables(self, tables: Tables) -> dict[str, int]:
        """Taps on the device."""
        return {"rows": self.put(tables.rows), "columns": self.put(tables.columns)}

    def close(self) -> None:
        """Free all."""
        for pointer in self._memory:
            self.device.free(pointer)
        self.device.destroy_stream(self.stream)


def preprocess(device: Device, kernels: Kernels, frames: NDArray[Any], contract: Contract, dtype: str) -> NDArray[Any]:
    """NxHxWxC frames to the network's input."""
    batch, height, width, channels = frames.shape
    placement = contract.place(height, width)
    shape = (*placement.canvas, channels) if contract.input_layout == "nhwc" else (channels, *placement.canvas)
    with device.current():
        bench = Bench(device, kernels)
        scale, shift = normalisation(contract)
        target = bench.room(batch * math.prod(shape) * np.dtype(dtype).itemsize)
        arguments = PreArguments(
            source=bench.put(frames),
            target=target,
            scale=bench.put(scale),
            shift=bench.put(shift),
            height=height,
            width=width,
            channels=channels,
            canvas_height=placement.canvas[0],
            canvas_width=placement.canvas[1],
            nhwc=contract.input_layout == "nhwc",
            reversed=contract.channel_order == "bgr",
            **bench.tables(canvas_tables(placement)),
        )
        kernels.pre(frames.dtype.name, dtype, batch, arguments, bench.stream)
        result = bench.get(target, (batch, *shape), dtype)
        bench.close()
    return result


def segment(
    device: Device, kernels: Kernels, scores: NDArray[Any], contract: Contract, placement: Placement
) -> tuple[NDArray[Any], NDArray[Any]]:
    """The network's output, batch first, to masks and confidences."""
    if contract.output_kind == "labels":
        batch, height, width = scores.shape
        channels = 1
    elif contract.output_layout == "nhwc":
        batch, height, width, channels = scores.shape
    else:
        batch, channels, height, width = scores.shape
    shape = (batch, *placement.source)
    with device.current():
        bench = Bench(device, kernels)
        mask, confidence = bench.room(math.prod(shape) * 2), bench.room(math.prod(shape) * 4)
        labels = contract.output_kind == "labels"
        arguments = ScoreArguments(
            scores=bench.put(scores),
            labels=bench.room(batch * height * width * 2),
            mask=mask,
            confidence=0 if labels else confidence,
            height=height,
            width=width,
            channels=channels,
            mask_height=placement.source[0],
            mask_width=placement.source[1],
            nhwc=contract.output_layout == "nhwc",
            kind=KINDS[contract.output_kind],
            limit=math.log(contract.threshold / (1 - contract.threshold)),
            **bench.tables(mask_tables(placement, height, width)),
        )
        kernels.mask(scores.dtype.name, contract.mask_dtype, batch, arguments, bench.stream)
        found = bench.get(mask, shape, contract.mask_dtype), bench.get(confidence, shape, "float32")
        bench.close()
    return found


def blend(
    device: Device, kernels: Kernels, tiles: Tiles, rows: Cut, columns: Cut, *, nhwc: bool
) -> NDArray[np.float32]:
    """CxHxW scores of each tile, by its row and column, to the scores of the whole."""
    first = tiles[0, 0]
    shape = (len(first), rows.length, columns.length)
    with device.current():
        bench = Bench(device, kernels)
        band = bench.put(np.zeros(shape, np.float32))
        for (row, column), scores in tiles.items():
            arguments = BlendArguments(
                scores=bench.put(scores.transpose(1, 2, 0) if nhwc else scores),
                band=band,
                row_weights=bench.put(rows.weights[row]),
                column_weights=bench.put(columns.weights[column]),
                height=rows.tile,
                width=columns.tile,
                channels=shape[0],
                band_height=shape[1],
                band_width=shape[2],
                top=int(rows.begins[row]),
                left=int(columns.begins[column]),
                nhwc=nhwc,
            )
            kernels.blend(scores.dtype.name, arguments, bench.stream)
        found = bench.get(band, shape, "float32")
        bench.close()
    return found


def structure_sizes(library: ctypes.CDLL) -> list[int]:
    """sizeof of the argument structures, as the C++ compiler has them."""
    return [library.size_of(which) for which in range(4)]
