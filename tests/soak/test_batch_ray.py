"""`segpipe batch --address local`: Ray's actors make what one process makes.

Ray needs a machine with little else to do: it gives its own helpers 15 seconds to start.
"""

import json
import os
import signal
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import pytest

from segpipe import testing
from segpipe.media.images import write_image
from tests.children import SEGPIPE, child, wait_until
from tests.using import names_below, segpipe

pytestmark = [pytest.mark.soak, pytest.mark.skipif(find_spec("ray") is None, reason="ray is not installed")]
COUNT = 60
ON_RAY = ("--actors", "2", "--batch", "4", "--address", "local", "--json")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for n in range(COUNT):
        write_image(folder / f"{n % 3}" / f"{n}.png", testing.make_frame(256, 256, n)[0])
    return folder


def masks(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in names_below(folder)}


def actors(of: int) -> list[int]:
    """Processes of Ray's actors below one process's session."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if b"ray::Actor" in (place / "cmdline").read_bytes() and os.getsid(int(place.name)) == os.getsid(of):
                found.append(int(place.name))
    return found


def test_actors_make_what_one_process_makes_also_when_one_is_killed(run: Path, photos: Path, tmp_path: Path) -> None:
    one = segpipe("batch", run, photos, "-o", tmp_path / "one", "--json")

    with child(*SEGPIPE, "batch", str(run), str(photos), "-o", str(tmp_path / "ray"), *ON_RAY) as process:
        wait_until(lambda: len([*tmp_path.glob("ray/*/masks/*/*.png")]) >= 4, process)
        for number in actors(process.pid)[:1]:
            os.kill(number, signal.SIGKILL)
        out, err = process.communicate()

    assert process.returncode == 0, err
    state = json.loads(out)
    assert (state["done"], state["broken"]) == (COUNT, 0)
    assert masks(Path(state["folder"], "masks")) == masks(Path(json.loads(one.stdout)["folder"], "masks"))


def test_gpus_where_there_are_none_are_an_error_before_anything_is_segmented(
    run: Path, photos: Path, tmp_path: Path
) -> None:
    ended = segpipe("batch", run, photos, "-o", tmp_path / "out", *ON_RAY, "--gpus", "4000")

    assert ended.returncode == 1
    assert b"GPUs, an actor was to have 4000" in ended.stderr


def test_a_cluster_that_is_not_there_is_one_line(run: Path, photos: Path, tmp_path: Path) -> None:
    ended = segpipe("batch", run, photos, "-o", tmp_path / "out", "--address", "127.0.0.1:9")

    assert ended.returncode == 1
    assert b"no Ray cluster at 127.0.0.1:9" in ended.stderr
