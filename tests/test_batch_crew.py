"""`segpipe batch` with several processes: the same masks, and nothing lost whatever ends them."""

import json
import platform
import tempfile
from contextlib import closing, nullcontext
from pathlib import Path

import pytest

from segpipe import testing, verdict
from segpipe.artifacts import ARTIFACTS, AUTO, ON_CPU
from segpipe.batch.actor import Actor, Opening, holds_engine, packed
from segpipe.batch.cluster import LOCAL, Size, prepare
from segpipe.batch.crew import ManyHands
from segpipe.batch.driver import Here, Request, predict_batch
from segpipe.batch.hands import LocalHands
from segpipe.batch.index import Files
from segpipe.batch.items import Item
from segpipe.batch.processes import MOST_TRIES
from segpipe.batch.status import State
from segpipe.batch.stores import LocalStore
from segpipe.batch.version import Output, Version
from segpipe.batch.worker import Worker
from segpipe.errors import ArtifactDamagedError, InputError, NotValidatedError
from segpipe.media.images import write_image
from segpipe.predicting.job import Advance, Job
from segpipe.rundir.directory import RunDirectory
from segpipe.rundir.storage import sha256_of_bytes
from segpipe.runtime.segmenter import Segmenter
from tests.batch_nodes import FULL, OTHER, REFUSING, Nodes
from tests.batch_workers import Deadly, Falling
from tests.calling import call
from tests.using import names_below, segpipe

pytest.importorskip("pyarrow")
COUNT = 24
JOB = Job(Path(), overlay=False)
OUTPUTS: tuple[Output, ...] = ("mask",)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for n in range(COUNT):
        write_image(folder / f"{n // 8}" / f"{n}.png", testing.make_frame(40, 40, n)[0])
    return folder


@pytest.fixture(scope="module")
def alone(run: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process makes."""
    with Segmenter.open(run) as segmenter:
        asked = Request(str(photos), str(tmp_path_factory.mktemp("alone")), JOB, Version.of(segmenter, JOB, OUTPUTS))
        return Path(predict_batch(Here(segmenter, JOB, OUTPUTS), asked, unseen).folder)


def ticked(frames: int, /, *, skipped: bool = False) -> None:
    """Nobody watches."""


def unseen(total: int) -> nullcontext[Advance]:
    """No bar."""
    return nullcontext(ticked)


def opening(worker: type[Worker] = Worker, **more: object) -> Opening:
    return Opening(JOB, OUTPUTS, AUTO, None, False, threads=1, worker=worker, **more)  # type: ignore[arg-type]


def batch(run: Path, source: Path, out: Path, worker: type[Worker] = Worker, size: Size = Size(2, per_call=6)) -> State:  # noqa: B008
    with closing(ManyHands(LocalHands(), packed(run), opening(worker), size)) as crew:
        return predict_batch(crew, Request(str(source), str(out), JOB, crew.version()), unseen)


def on(nodes: Nodes, run: Path, source: Path, out: Path, actors: int) -> State:
    with closing(ManyHands(nodes, packed(run), opening(), Size(actors, per_call=6))) as crew:
        return predict_batch(crew, Request(str(source), str(out), JOB, crew.version()), unseen)


def rows(folder: str | Path, *columns: str) -> dict[str, tuple[object, ...]]:
    return Files.of(LocalStore(Path(folder))).latest(columns)


def masks(folder: str | Path) -> dict[str, bytes]:
    return {name: Path(folder, "masks", name).read_bytes() for name in names_below(Path(folder, "masks"))}


def test_two_processes_make_what_one_makes(run: Path, photos: Path, alone: Path, tmp_path: Path) -> None:
    state = batch(run, photos, tmp_path / "out")

    assert (state.done, state.broken) == (COUNT, 0)
    assert Path(state.folder).name == alone.name
    assert masks(state.folder) == masks(alone)
    same = ("size", "mtime_ns", "sha256", "shares", "mask_bytes", "error", "tries")
    assert rows(state.folder, *same) == rows(alone, *same)


def test_processes_that_end_at_any_image_lose_nothing(run: Path, photos: Path, alone: Path, tmp_path: Path) -> None:
    state = batch(run, photos, tmp_path / "out", Falling, Size(2, per_call=12))

    assert (state.done, state.broken) == (COUNT, 0)
    assert masks(state.folder) == masks(alone)
    assert len(rows(state.folder, "size")) == COUNT


def test_an_image_that_ends_every_process_is_broken_and_the_rest_is_done(
    run: Path, photos: Path, tmp_path: Path
) -> None:
    for n in range(3):
        write_image(tmp_path / "in" / f"{n}.png", testing.make_frame(40, 40, n)[0])
    write_image(tmp_path / "in/poison.png", testing.make_frame(40, 40)[0])

    state = batch(run, tmp_path / "in", tmp_path / "out", Deadly, Size(1, per_call=1))

    told = rows(state.folder, "error", "tries")
    assert (state.done, state.broken) == (3, 1)
    assert told["poison.png"][0] == f"poison.png ended {MOST_TRIES} processes that segmented it, one after the other"
    assert [name for name, (error, _) in told.items() if error] == ["poison.png"]


def test_the_command_takes_several_processes(run: Path, photos: Path, tmp_path: Path) -> None:
    done = segpipe("batch", run, photos, "-o", tmp_path / "out", "--actors", 2, "--per-call", 4)

    assert done.returncode == 0, done.stderr
    assert len(masks(done.stdout.decode().strip())) == COUNT


def test_a_run_with_an_engine_is_known_as_one_and_packed_without_a_word_of_it(
    run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with_engine = RunDirectory(testing.make_run(tmp_path / "run"))
    row = ARTIFACTS["tensorrt-rtx"]
    with with_engine.step(row.stage, [with_engine.artifact(ON_CPU.stage, ON_CPU.file)], {}) as step:
        step.path(row.file).write_bytes(b"plan")

    packed(with_engine.path)

    assert "refuse" not in caplog.text
    assert holds_engine(with_engine.path)
    assert not holds_engine(run)


def test_gpus_without_a_cluster_are_wrong_usage(run: Path, photos: Path, tmp_path: Path) -> None:
    code, _, err = call("batch", run, photos, "-o", tmp_path / "out", "--gpus", "1")

    assert code == 2
    assert "--address local" in err


def test_a_run_that_did_not_pass_is_refused_by_name(photos: Path, tmp_path: Path) -> None:
    failed = testing.make_run(tmp_path / "failed", status="failed")

    with pytest.raises(NotValidatedError, match="was judged: failed"):
        batch(failed, photos, tmp_path / "out", size=Size(1))


def test_nodes_that_may_not_work_are_named_together_before_anything_is_segmented(
    run: Path, photos: Path, tmp_path: Path
) -> None:
    nodes = Nodes("good", f"{REFUSING}-1", f"{REFUSING}-2")

    with pytest.raises(NotValidatedError, match="refusing-1: no verdict for this GPU; refusing-2: no verdict"):
        on(nodes, run, photos, tmp_path / "out", actors=5)

    assert not (tmp_path / "out").exists()


def test_of_many_nodes_that_refuse_five_are_named_and_the_rest_is_counted(run: Path) -> None:
    nodes = Nodes(*(f"{REFUSING}-{n}" for n in range(9)))

    with (
        closing(ManyHands(nodes, packed(run), opening(), Size(9))) as crew,
        pytest.raises(NotValidatedError, match="refusing-4: no verdict for this GPU; and 4 more"),
    ):
        crew.version()


def test_a_node_that_opens_another_backend_is_named(run: Path) -> None:
    with (
        closing(ManyHands(Nodes("good", OTHER), packed(run), opening(), Size(2))) as crew,
        pytest.raises(InputError, match="other opens another backend"),
    ):
        crew.version()


def test_a_node_that_refuses_later_is_left_and_the_others_go_on(
    run: Path, photos: Path, alone: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    nodes = Nodes("good", FULL, spare=REFUSING)

    with closing(ManyHands(nodes, packed(run), opening(), Size(1, per_call=6))) as crew:
        version = crew.version()
        crew._processes._start()  # as when a process has ended
        state = predict_batch(crew, Request(str(photos), str(tmp_path / "out"), JOB, version), unseen)

    assert (state.done, state.broken) == (COUNT, 0)
    assert masks(state.folder) == masks(alone)
    assert "a process less: refusing: no verdict for this GPU" in caplog.text


def test_a_node_without_room_is_not_waited_for(
    run: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("segpipe.batch.processes._PATIENCE_S", 0.0)

    state = on(Nodes("good", FULL), run, photos, tmp_path / "out", actors=2)

    assert state.done == COUNT


@pytest.fixture
def actor(run: Path) -> Actor:
    """One in this process, that has opened the bundle."""
    made, bundle = Actor(), packed(run)
    assert isinstance(made.open(bundle, opening(bundle_sha256=sha256_of_bytes(bundle))), tuple)
    return made


def test_a_bundle_that_came_damaged_is_not_opened(run: Path) -> None:
    bundle = packed(run)

    answer = Actor().open(bundle[:-1] + b"x", opening(bundle_sha256=sha256_of_bytes(bundle)))

    assert isinstance(answer, ArtifactDamagedError)


def test_a_node_whose_device_no_verdict_covers_says_so_by_its_name(tmp_path: Path) -> None:
    run = RunDirectory(testing.make_run(tmp_path / "run"))
    (judged,) = json.loads(run.artifact_bytes(verdict.STAGE, verdict.FILE_NAME))
    with run.step(verdict.STAGE, [run.artifact(ON_CPU.stage, ON_CPU.file)], {"on": "a GPU"}) as step:
        step.path(verdict.FILE_NAME).write_text(json.dumps([judged | {"device": "NVIDIA H100"}]))
    bundle = packed(run.path)

    answer = Actor().open(bundle, opening(bundle_sha256=sha256_of_bytes(bundle)))

    assert isinstance(answer, NotValidatedError)
    assert answer.message.startswith(f"{platform.node()}: no verdict for artifact")
    assert "segpipe validate RUN --hop BACKEND" in answer.hint
    assert tempfile.gettempdir() not in str(answer), "nobody can look into a folder that is gone"


def test_another_segpipe_on_a_node_is_named(run: Path) -> None:
    answer = Actor().open(packed(run), opening(segpipe="0.0.9"))

    assert isinstance(answer, InputError)
    assert "the driver 0.0.9" in str(answer)


def test_a_node_without_the_folders_of_images_and_output_says_so_before_it_works(run: Path, tmp_path: Path) -> None:
    seen, unseen = (str(tmp_path), f"{tmp_path}/mounted-elsewhere")

    answer = Actor().open(packed(run), opening(folders=(seen, unseen)))

    assert isinstance(answer, InputError)
    assert answer.message == f"{platform.node()}: {unseen} is not to be seen from this node"


def test_a_node_that_sees_neither_images_nor_output_says_so_instead_of_calling_all_broken(
    actor: Actor, alone: Path, photos: Path, tmp_path: Path
) -> None:
    item = Item("elsewhere/0.png", "elsewhere/0.png", 10, 0)

    without_images = actor.work([item], str(photos), str(alone))
    without_output = actor.work([item], str(photos), str(tmp_path / "gone"))

    assert isinstance(without_images, InputError)
    assert "elsewhere/0.png is not to be seen from" in str(without_images)
    assert "gone is not to be seen from" in str(without_output)


def test_a_cluster_that_is_started_here_has_a_token_of_its_own_and_another_keeps_its(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in (
        "RAY_AUTH_MODE",
        "RAY_AUTH_TOKEN",
        "RAY_NUM_REDIS_GET_RETRIES",
        "RAY_py_gcs_connect_timeout_s",
        "RAY_worker_niceness",
    ):
        monkeypatch.setenv(name, "kept")
        monkeypatch.delenv(name)
    import os

    prepare(Size(address="10.0.0.1:6379"))
    assert "RAY_AUTH_TOKEN" not in os.environ
    prepare(Size(address=LOCAL))
    assert len(os.environ["RAY_AUTH_TOKEN"]) == 64
    monkeypatch.setenv("RAY_AUTH_TOKEN", "mine")
    prepare(Size(address=LOCAL))
    assert os.environ["RAY_AUTH_TOKEN"] == "mine"
