"""`segpipe batch --address`: two nodes of Ray make what one process makes, whatever goes away meanwhile.

One cluster serves all tests but the last: starting one takes longest.
"""

import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from docs.making.blocks import ROOT, blocks
from segpipe import testing
from segpipe.media.images import write_image
from tests.children import SEGPIPE, child, wait_until
from tests.ray_nodes import Cluster, cluster, in_session
from tests.using import Ended, names_below, segpipe

pytestmark = [pytest.mark.soak, pytest.mark.skipif(find_spec("ray") is None, reason="ray is not installed")]
COUNT, SIDE = 60, 1024
ACTOR = b"ray::Actor"


@pytest.fixture(scope="module")
def made() -> Iterator[Cluster]:
    with cluster() as one:
        yield one


@pytest.fixture
def nodes(made: Cluster) -> Cluster:
    """With two nodes of one CPU each."""
    while len(made.nodes) < 2:
        made.add()
    return made


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for n in range(COUNT):
        write_image(folder / f"{n % 3}" / f"{n}.png", testing.make_frame(SIDE, SIDE, n)[0])
    return folder


@pytest.fixture(scope="module")
def alone(run: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, bytes]:
    """The masks of one process."""
    ended = segpipe("batch", run, photos, "-o", tmp_path_factory.mktemp("alone"), "--json")
    return masks(json.loads(ended.stdout))


def command(nodes: Cluster, run: Path, photos: Path, out: Path) -> list[object]:
    options = ["--actors", 2, "--per-call", 4, "--address", nodes.address, "--json"]
    return ["batch", run, photos, "-o", out, *options]


def masks(state: Mapping[str, Any]) -> dict[str, bytes]:
    folder = Path(state["folder"], "masks")
    return {name: (folder / name).read_bytes() for name in names_below(folder)}


def broken_off(words: list[object], out: Path, what: Any) -> Ended:
    """The command, with something done to it when it has written some masks."""
    with child(*SEGPIPE, *map(str, words)) as process:
        wait_until(lambda: len([*out.glob("*/masks/*/*.png")]) >= 4, process)
        what(process)
        stdout, stderr = process.communicate()
    return Ended([*map(str, words)], process.returncode, stdout.encode(), stderr.encode())


def assert_all_done_once(ended: Ended, alone: Mapping[str, bytes]) -> None:
    import pyarrow.parquet as pq

    assert ended.returncode == 0, ended.stderr.decode()
    state = json.loads(ended.stdout)
    assert (state["done"] + state["skipped"], state["broken"]) == (COUNT, 0)
    assert masks(state) == alone
    (last, *_) = sorted(Path(state["folder"], "index").iterdir(), reverse=True)
    names = pq.read_table(last).column("path").to_pylist()
    assert len(names) == len({*names}) == state["done"]


def test_two_nodes_make_what_one_process_makes_also_when_an_actor_is_killed(
    nodes: Cluster, run: Path, photos: Path, alone: Mapping[str, bytes], tmp_path: Path
) -> None:
    def kill_one(process: object) -> None:
        os.kill(nodes.processes(ACTOR)[0], signal.SIGKILL)

    ended = broken_off(command(nodes, run, photos, tmp_path / "out"), tmp_path / "out", kill_one)

    assert_all_done_once(ended, alone)
    assert b"another one is started" in ended.stderr


def test_a_node_that_goes_while_it_works_loses_nothing(
    nodes: Cluster, run: Path, photos: Path, alone: Mapping[str, bytes], tmp_path: Path
) -> None:
    workers = []

    def remove_one(process: object) -> None:
        workers.extend(nodes.nodes[1].processes(ACTOR))
        nodes.remove(nodes.nodes[1])

    ended = broken_off(command(nodes, run, photos, tmp_path / "out"), tmp_path / "out", remove_one)

    assert workers, "no actor worked on the node that was removed"
    assert_all_done_once(ended, alone)


@pytest.mark.parametrize(("how", "code"), [(signal.SIGKILL, -9), (signal.SIGINT, 130)])
def test_a_driver_that_ends_takes_its_actors_along_and_the_same_command_goes_on(
    how: int, code: int, *, nodes: Cluster, run: Path, photos: Path, alone: Mapping[str, bytes], tmp_path: Path
) -> None:
    words = command(nodes, run, photos, tmp_path / "out")

    first = broken_off(words, tmp_path / "out", lambda process: process.send_signal(how))
    wait_until(lambda: not nodes.processes(ACTOR))
    ended = segpipe(*words)

    assert first.returncode == code, first.stderr
    assert b"Traceback" not in first.stderr
    assert_all_done_once(ended, alone)


def test_an_image_that_ends_every_actor_is_broken_and_the_rest_is_done(
    nodes: Cluster, run: Path, tmp_path: Path
) -> None:
    for name in ("a", "b", "poison"):
        write_image(tmp_path / "in" / f"{name}.png", testing.make_frame(40, 40)[0])

    places = map(str, (run, tmp_path / "in", tmp_path / "out"))
    with child(sys.executable, "-m", "tests.ray_driver", nodes.address, *places) as one:
        out, err = one.communicate()

    assert json.loads(out) == {"done": 2, "broken": 1}, err
    assert "poison.png ended 3 processes" in err


def test_strips_of_one_image_on_two_nodes_make_the_file_of_one_process(nodes: Cluster, tmp_path: Path) -> None:
    pytest.importorskip("rasterio")
    from tests.test_rasters import TILE, write_tiff

    small = testing.CONTRACT.model_copy(update={"fit": "stretch", "network_size": TILE})
    run = testing.make_run(tmp_path / "run", small)
    write_tiff(tmp_path / "in/a.tif", testing.make_frame(600, 500)[0])

    ended = segpipe(*command(nodes, run, tmp_path / "in", tmp_path / "out"), "--geotiff")
    one = segpipe("batch", run, tmp_path / "in", "-o", tmp_path / "one", "--geotiff", "--json")

    assert ended.returncode == 0, ended.stderr
    assert b"rows of tiles" in ended.stderr
    assert masks(json.loads(ended.stdout)) == masks(json.loads(one.stdout))


def test_gpus_where_there_are_none_are_an_error_before_anything_is_segmented(
    nodes: Cluster, run: Path, photos: Path, tmp_path: Path
) -> None:
    ended = segpipe(*command(nodes, run, photos, tmp_path / "out"), "--gpus", "0.5")

    assert ended.returncode == 1
    assert b"no node of the cluster has more than 0 GPUs, an actor was to have 0.5" in ended.stderr
    assert not (tmp_path / "out").exists()


def test_a_run_without_a_passed_verdict_is_refused_by_the_node_that_was_to_open_it(
    nodes: Cluster, photos: Path, tmp_path: Path
) -> None:
    failed = testing.make_run(tmp_path / "failed", status="failed")

    ended = segpipe(*command(nodes, failed, photos, tmp_path / "out"))

    assert ended.returncode == 1
    assert f"{socket.gethostname()}: ".encode() in ended.stderr
    assert ended.stderr.count(b"was judged: failed") == 1


@pytest.mark.parametrize("listens", [False, True])
def test_an_address_without_a_cluster_is_one_line(listens: bool, run: Path, photos: Path, tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        if listens:
            other.listen()
        address = f"127.0.0.1:{other.getsockname()[1]}"
        ended = segpipe("batch", run, photos, "-o", tmp_path / "out", "--address", address)

    assert ended.returncode == 1
    assert f"no Ray cluster at {address}".encode() in ended.stderr.splitlines()[-1]


def test_the_tutorial_of_a_cluster_does_what_it_says(
    nodes: Cluster, run: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own lines in its order; nodes are those of this module, and `ray stop` is a power cut."""
    shutil.copytree(photos, tmp_path / "photos")
    assert segpipe("bundle", run, "-o", tmp_path / "street").returncode == 0
    from ray.scripts.scripts import start

    monkeypatch.setenv("RAY_ADDRESS", nodes.address)  # what `auto` finds
    page = ROOT / "docs/tutorials/cluster.md"
    names: dict[str, Any] = {}
    (python,) = blocks(page, "python")
    exec(compile(python.code, str(page), "exec"), names)
    lines = [line for block in blocks(page, "bash") for line in block.code.splitlines()]
    batches: list[subprocess.Popen[str]] = []

    with ExitStack() as ending:
        for line in lines:
            words = shlex.split(line.replace("/shared", str(tmp_path)))
            match words[:3]:
                case ["pip", *_] | ["export", *_] | ["segpipe", "doctor"]:
                    continue
                case ["ray", "start", *_]:
                    assert start.make_context("start", words[2:])
                case ["segpipe", "batch", "status"]:
                    wait_until(lambda: len([*tmp_path.glob("masks/*/masks/*/*.png")]) >= 4, batches[0])
                    assert segpipe(*words[1:]).returncode == 0
                case ["segpipe", "batch", _]:
                    batches.append(ending.enter_context(child(*SEGPIPE, *words[1:])))
                case ["ray", "stop"]:
                    nodes.remove(nodes.nodes[1])
                    out, err = batches[0].communicate()
                    assert batches[0].returncode == 0, err
                case _:
                    pytest.fail(f"nobody tries this line: {line}")
        again, err = batches[1].communicate()

    assert "60 images: 0 done now, 60 before, 0 broken" in err
    assert again == out
    assert names["unequal"](str(run), str(tmp_path / "photos"), out.strip()) == []


def test_a_cluster_that_is_started_here_ends_with_the_command(
    run: Path, photos: Path, alone: Mapping[str, bytes], tmp_path: Path
) -> None:
    words = ["batch", run, photos, "-o", tmp_path / "out", "--actors", 2, "--address", "local", "--json"]

    with child(*SEGPIPE, *map(str, words)) as process:
        wait_until(lambda: bool(in_session(process.pid, ACTOR)), process)
        niceness = {os.getpriority(os.PRIO_PROCESS, actor) for actor in in_session(process.pid, ACTOR)}
        out, err = process.communicate()
        wait_until(lambda: not in_session(process.pid))

    assert process.returncode == 0, err
    assert masks(json.loads(out)) == alone
    assert niceness == {0}
