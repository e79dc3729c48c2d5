"""The device layer with each provider."""

import threading

import numpy as np
import pytest

from segpipe.errors import BackendError
from segpipe.runtime.cuda.arrays import DeviceArray
from segpipe.runtime.cuda.compiling import PTX, compile_kernel
from segpipe.runtime.cuda.device import Device, OutOfMemoryError
from segpipe.runtime.cuda.kernels import Kernels
from segpipe.runtime.cuda.opening import open_device
from segpipe.runtime.cuda.spare import Spare
from tests import kernel_calls

pytestmark = pytest.mark.gpu


def test_memory_goes_there_and_back(device: Device) -> None:
    data = np.random.default_rng(0).integers(0, 256, 100_003, np.uint8)
    back = np.zeros_like(data)
    with device.current():
        stream, pinned = device.create_stream(), device.allocate_pinned(data.size)
        first, second = device.allocate(data.size), device.allocate(data.size)
        pinned[:] = data

        device.upload(first, pinned, stream)
        device.copy(second, first, data.size, stream)
        device.download(back, second, stream)
        device.synchronize(stream)

        device.free(first)
        device.free(second)
        device.free_pinned(pinned)
        device.destroy_stream(stream)
    assert np.array_equal(back, data)


def test_allocations_are_given_back(device: Device) -> None:
    with device.current():
        before = device.free_memory_bytes()
        for _ in range(50):
            device.free(device.allocate(256 << 20))

        assert abs(before - device.free_memory_bytes()) < 64 << 20


def test_out_of_memory_is_named_and_the_device_goes_on(device: Device) -> None:
    with device.current():
        with pytest.raises(OutOfMemoryError, match="CUDA_ERROR_OUT_OF_MEMORY"):
            device.allocate(1 << 45)

        device.free(device.allocate(1 << 20))


def test_a_graph_replays_with_new_content(device: Device) -> None:
    back = np.zeros(1000, np.uint8)
    with device.current():
        stream, source, target = device.create_stream(), device.allocate_pinned(1000), device.allocate(1000)
        host = device.allocate_pinned(1000)
        device.begin_capture(stream)
        device.upload(target, source, stream)
        device.download(host, target, stream)
        graph = device.end_capture(stream)
        for value in (3, 7):
            source[:] = value
            device.launch_graph(graph, stream)
            device.synchronize(stream)
            back[:] = host

            assert (back == value).all()
        device.destroy_graph(graph)


def test_marks_tell_how_long_the_stream_took(device: Device, real_gpu: None) -> None:
    size = 256 << 20
    with device.current():
        stream, first, second = device.create_stream(), device.allocate(size), device.allocate(size)

        marks = [device.mark(stream)]
        for copies in (1, 20):
            for _ in range(copies):
                device.copy(second, first, size, stream)
            marks.append(device.mark(stream))
        device.synchronize(stream)
        short, long = device.milliseconds(*marks[:2]), device.milliseconds(*marks[1:])

        for mark in marks:
            device.drop_mark(mark)
        device.free(first)
        device.free(second)
        device.destroy_stream(stream)
    assert 0 < short < long


def test_an_empty_capture_gives_no_graph(device: Device) -> None:
    with device.current():
        stream = device.create_stream()
        device.begin_capture(stream)

        assert device.end_capture(stream) == 0


def test_a_broken_capture_gives_no_graph_and_frees_the_stream(device: Device) -> None:
    with device.current():
        stream = device.create_stream()
        device.begin_capture(stream)
        with pytest.raises(BackendError, match="CAPTURE"):
            device.synchronize(stream)

        assert device.end_capture(stream) == 0
        device.synchronize(stream)


def test_ptx_loads_where_there_is_no_machine_code(device: Device, real_gpu: None) -> None:
    with device.current():
        Kernels(device, {"kernels.ptx": compile_kernel(PTX)}).close()


def test_threads_share_the_primary_context(device: Device) -> None:
    with device.current():
        pointer = device.allocate(64)
    failures: list[BackendError] = []

    def work() -> None:
        try:
            with device.current():
                stream = device.create_stream()
                device.upload(pointer, np.zeros(64, np.uint8), stream)
                device.synchronize(stream)
                device.destroy_stream(stream)
        except BackendError as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_torch_works_before_between_and_after(device: Device, real_gpu: None) -> None:
    torch = pytest.importorskip("torch")
    before = torch.ones(1000, device="cuda").sum().item()
    with device.current():
        device.free(device.allocate(1000))
        between = torch.ones(1000, device="cuda").sum().item()

    assert before == between == torch.ones(1000, device="cuda").sum().item() == 1000


def test_results_go_to_torch_without_a_copy(device: Device, real_gpu: None) -> None:
    torch = pytest.importorskip("torch")
    with device.current():
        bench = kernel_calls.Bench(device, Kernels(device, {"kernels.ptx": compile_kernel(PTX)}))
        spare = Spare(device)
        array = DeviceArray(device, spare, spare.take(15, bench.stream), (3, 5), np.dtype("uint8"))
        device.upload(array.pointer, np.arange(15, dtype=np.uint8), bench.stream)
        device.synchronize(bench.stream)

    tensor = torch.from_dlpack(array)

    assert tensor.data_ptr() == array.pointer
    assert tensor.cpu().tolist() == np.arange(15).reshape(3, 5).tolist()
    assert torch.as_tensor(array, device="cuda").cpu().tolist() == tensor.cpu().tolist()


def test_a_gpu_that_is_not_there_is_refused() -> None:
    with pytest.raises(BackendError, match="INVALID_DEVICE"):
        open_device(63, "cuda-python")
