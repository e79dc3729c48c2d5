"""What the frame path asks of an engine, whoever runs it: TensorRT in both flavours, or ONNX Runtime."""

from typing import Any, Protocol


class EngineContext(Protocol):
    """One user of an engine: it keeps one input shape at a time and serves one stream."""

    def set_shape(self, shape: tuple[int, ...], stream: int) -> tuple[int, ...]:
        """Prepare for inputs of this shape; the shape of the output."""
        ...

    def is_capturable(self, stream: int) -> bool:
        """Whether `enqueue` may be recorded into a CUDA graph."""
        ...

    def enqueue(self, source: int, target: int, stream: int) -> None:
        """Put the network on the stream: from the input at one device address to the output at another."""
        ...


class Engine(Protocol):
    """A loaded network with one input and one output."""

    input_dtype: str
    output_dtype: str
    batches: tuple[int, int]
    """Smallest and largest batch."""

    def context(self) -> EngineContext:
        """A new user of the engine."""
        ...

    def describe(self) -> dict[str, Any]: ...
    def close(self) -> None: ...
