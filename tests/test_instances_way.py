"""Things one by one through every command: a tiny network from training to a bundle, and who cannot do it yet."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tomli_w

from segpipe.artifacts import ON_CPU
from segpipe.errors import ConfigError
from segpipe.id_maps import classes_in
from segpipe.instances import Instances
from segpipe.media.images import read_image, write_image
from segpipe.rundir.directory import RunDirectory
from segpipe.runtime.instance_segmenter import InstanceSegmenter
from stages.config.file import load_config
from stages.config.root import Config
from stages.models import build_for
from stages.pipeline import Selection, run_stages
from stages.report.reading import read_facts
from stages.results.figures import TrainFigures, read
from stages.results.gate import ThingAccuracy, read_report
from stages.validate.pages.page import html, markdown
from tests.calling import call
from tests.conftest import made_once
from tests.serving import serving
from tests.test_instances import CONTRACT
from tests.things_run import make_things_run
from tests.tiny import SHORTEST_BENCHMARK, write_toml
from tests.using import make_video, names_below

TOML = """
[data]
kind = "shapes"
height = 48
width = 80
train = 4
val = 2
test = 2

[input]
height = 64
width = 96

[task]
kind = "instances"
top = 8
threshold = 0.0

[model]
name = "centremask"
options = { width = 4, prototypes = 4 }

[train]
epochs = 1
batch_size = 4
learning_rate = 1e-4  # nothing becomes sure, so rounding loses nothing that counts
workers = 0
threads = 1
tensorboard = false

[export]
fp32_islands = []

[build]
targets = []
max_batch = 2

[validate]
images = 2
reference_images = 1
stress = false
pictures = 1

[validate.limits]  # an untrained network has tiny margins: rounding flips more of it
min_agreement = 0.5
min_image_agreement = 0.3
max_flips_inside = 0.5
max_flips_boundary = 0.9
max_iou_drop = 0.9
max_large_margin_flips = 0.5
rounding_factor = 1e9
"""
TOML += SHORTEST_BENCHMARK


def config_with(folder: Path, *overrides: str) -> Config:
    return load_config(write_toml(folder, TOML), overrides)


@pytest.fixture(scope="session")
def things(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every stage done. Shared: never write to it."""
    return made_once(tmp_path_factory, "things", lambda path: run_stages(path, config_with(path), path, Selection()))


@pytest.fixture(scope="module")
def found_in_all(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose network finds the same two things in every frame."""
    return make_things_run(tmp_path_factory.mktemp("constant") / "run")


@pytest.fixture
def image(tmp_path: Path) -> Path:
    write_image(tmp_path / "in" / "one.png", np.zeros((40, 60, 3), np.uint8))
    return tmp_path / "in" / "one.png"


# settings


def test_without_a_task_nothing_is_said_of_one(tmp_path: Path) -> None:
    """Parameters of runs that exist stay what they are."""
    folder = write_toml(tmp_path, TOML[: TOML.index("[task]")] + "[train]\nepochs = 1\n")
    config = load_config(folder)

    assert "task" not in config.training()
    assert "task" not in config.stored()["chosen"]
    assert config_with(tmp_path / "things").training()["task"]["kind"] == "instances"


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ('compress.int8="ptq"', r"\[compress\] is not there yet"),
        ("compress.prune.macs=0.5", r"\[compress\] is not there yet"),
        ('train.class_weights="median-frequency"', "class_weights"),
        ('train.output="sigmoid"', "of masks"),
        ('export.end_to_end="mask"', "end_to_end"),
        ('data={kind="camvid", root="x"}', "kind 'camvid'"),
        ('task.things=["cat"]', "things names what is no class"),
        ('task.kind="boxes"', "not a known kind"),
    ],
)
def test_settings_that_are_not_for_things_are_refused_in_a_line(tmp_path: Path, override: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        config_with(tmp_path, override)


@pytest.mark.parametrize(
    ("override", "words"),
    [('model={name="skipnet"}', "for the task 'semantic'"), ("model.options={top=9}", "top is not yours to set")],
)
def test_a_network_for_another_task_is_refused_before_it_is_made(tmp_path: Path, override: str, words: str) -> None:
    from stages.config.draft import draft_contract

    config = config_with(tmp_path, override)
    with pytest.raises(ConfigError, match=words):
        build_for(config.model, draft_contract(config))


def test_more_things_than_the_network_has_places_are_refused_before_training(tmp_path: Path) -> None:
    from stages.config.draft import draft_contract
    from stages.train.contract import contract_of, refuse_broken_promises

    config = config_with(tmp_path, "task.top=3000")
    network = build_for(config.model, draft_contract(config))
    with pytest.raises(ConfigError, match=r"takes no frame .* out of range") as caught:
        refuse_broken_promises(network, config, contract_of(config, network))

    assert "lower [task] top" in caught.value.hint


def test_a_network_for_things_is_none_for_masks(tmp_path: Path) -> None:
    from stages.config.draft import draft_contract

    config = config_with(tmp_path, 'task={kind="semantic"}')
    with pytest.raises(ConfigError, match="for the task 'instances'"):
        build_for(config.model, draft_contract(config))


# the whole way


def test_training_records_precision_quality_and_the_pixels_classes(things: Path) -> None:
    figures = read(TrainFigures, RunDirectory(things).manifest.stages)

    assert figures is not None
    assert figures.val_ap is not None
    assert figures.test_miou is not None
    assert {"masks", "boxes", "panoptic", "pixels"} == figures.test_things.keys()
    assert "PQ" in figures.headline()


def test_the_gate_judges_things_in_every_hop_and_shows_them(things: Path) -> None:
    run = RunDirectory(things)
    report = read_report(run.artifact_bytes("validate", "report.json"), "here", "")
    page = run.artifact_bytes("validate", "gate.html").decode()

    assert {"onnx", "fp16"} <= report.hops.keys()
    for hop in report.hops.values():
        assert {"lost_things", "thing_iou", "map_relative_l2", "ap_drop"} <= {check.name for check in hop.checks}
    assert all(name.replace("_", "_<wbr>") in page for name in ("lost_things", "ap_drop"))


def test_the_gates_pages_and_the_report_tell_of_each_hop_what_is_lost_where_and_how_precise_it_is(
    things: Path, tmp_path: Path
) -> None:
    run = RunDirectory(things)
    report = read_report(run.artifact_bytes("validate", "report.json"), "here", "")
    hop = report.hops["fp16"]
    assert hop.things is not None
    accuracy = ThingAccuracy(mask_ap=0.7031, box_ap=0.6021, pq=0.8011, miou=None)
    planted = hop.things.model_copy(update={"extra": 3, "extra_at": "photo 12", "hop": accuracy})
    report = report.model_copy(update={"hops": report.hops | {"fp16": hop.model_copy(update={"things": planted})}})
    call("report", things, "-o", tmp_path / "report.html")

    for page in (markdown(report, []), html(report, [], {})):
        assert "3, first in photo 12" in page
        assert all(value in page for value in ("0.7031", "0.6021", "0.8011"))
    assert "Found by both" in (tmp_path / "report.html").read_text()
    assert all(line.things is not None for line in read_facts(run).hops)


def test_a_machine_without_pytorch_judges_things_by_the_stored_reference(things: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    call("bundle", things, "-o", bundle, "--with-reference")
    code, out, _ = call("validate", bundle, "--hop", "onnxruntime-cpu")
    (verdict,) = [json.loads(path.read_text()) for path in (bundle / "local-verdicts").glob("*.json")]
    checks = {check["name"]: check["status"] for check in verdict["report"]["hops"]["onnxruntime-cpu"]["checks"]}

    assert (code, "passed" in out) == (0, True)
    assert checks["lost_things"] == checks["extra_things"] == checks["relative_l2"] == "passed"


def test_everybody_finds_the_same_in_the_benchmark(things: Path) -> None:
    code, out, _ = call("benchmark", things, "--json")
    contestants = {entry["name"]: entry for entry in json.loads(out)["contestants"]}

    assert code == 0
    for name in ("segpipe onnxruntime-cpu", "PyTorch eager FP32", "ONNX Runtime, PyTorch pre/post"):
        assert contestants[name]["agreement"] > 0.99
        assert contestants[name]["latency"]


def test_the_report_evaluation_and_bundle_of_things(things: Path, tmp_path: Path, image: Path) -> None:
    code, out, _ = call("report", things, "-o", tmp_path / "report.html")
    assert code == 0
    page = (tmp_path / "report.html").read_text()
    assert "mask AP" in page
    assert all(f'<th scope="row">{name}</th>' in page for name in ("masks ap50", "boxes ap", "panoptic pq"))

    code, out, _ = call("evaluate", things, "--json")
    figures = json.loads(out)
    assert code == 0
    assert {"frames", "boxes"} <= figures.keys()
    assert {"pq", "sq", "rq"} == figures["panoptic"].keys()

    assert call("bundle", things, "-o", tmp_path / "bundle", "--with-reference")[0] == 0
    assert call("predict", tmp_path / "bundle", image, "-o", tmp_path / "out")[0] == 0
    assert read_image(tmp_path / "out" / "masks" / "one.png").shape[:2] == (40, 60)


def test_a_checkpoint_of_things_describes_its_network(things: Path) -> None:
    from stages.models import checkpoint

    data = RunDirectory(things).artifact_bytes("train", "model.safetensors")
    trained = checkpoint.from_bytes(data)

    assert trained.contract.task == "instances"
    assert checkpoint.to_bytes(trained, load_config(things).model) == data


# somebody else's


def foreign(things: Path) -> bytes:
    """The network as if another tool had made it: no contract, names of its own, and no map among its outputs."""
    model = onnx.load_model_from_string(RunDirectory(things).artifact_bytes("export", "model.onnx"))
    del model.metadata_props[:], model.graph.output[4:]
    for value in model.graph.output:
        for node in model.graph.node:
            node.output[:] = [f"their_{name}" if name == value.name else name for name in node.output]
            node.input[:] = [f"their_{name}" if name == value.name else name for name in node.input]
        value.name = f"their_{value.name}"
    return model.SerializeToString()


def assert_same(found: Instances, expected: Instances) -> None:
    """But for rounding: graphs that lack an output may be fused in another way."""
    assert len(expected) > 0
    np.testing.assert_array_equal(found.labels, expected.labels)
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-4)
    np.testing.assert_allclose(found.boxes, expected.boxes, atol=0.01)
    for number in range(len(expected)):
        assert (found.mask(number) != expected.mask(number)).mean() < 0.01


def test_a_foreign_network_for_things_is_imported_and_judged_by_its_own_fp32(things: Path, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(foreign(things))
    fields = json.loads(RunDirectory(things).artifact_bytes("export", "contract.json"))
    kept = {name: fields[name] for name in ("task", "classes", "things", "top", "threshold", "network_size")}
    kept |= {f"{name}_name": f"their_{name}" for name in ("boxes", "scores", "labels", "masks")}
    kept |= {"semantic_name": "semantic", "dense_names": ["heat", "reach"]}
    kept["data"] = {"kind": "shapes", "height": 48, "width": 80, "train": 2, "val": 2, "test": 2}
    (tmp_path / "contract.toml").write_text(tomli_w.dumps(kept))
    run = tmp_path / "run"

    assert call("import", tmp_path / "model.onnx", "--contract", tmp_path / "contract.toml", "-o", run)[0] == 0
    changed = load_config(things).validate_.limits.model_dump(exclude_defaults=True)
    limits = [f"validate.limits.{name}={value}" for name, value in changed.items()]
    rest = ["validate.images=2", "validate.stress=false", "validate.pictures=1", "build.targets=[]"]
    run_stages(run, load_config(run, [*limits, *rest]), run, Selection("export", "validate"))

    report = read_report(RunDirectory(run).artifact_bytes("validate", "report.json"), "here", "")
    assert report.reference == "ONNX FP32"
    assert report.status == "passed"
    assert report.hops["fp16"].things is not None
    frame = np.random.default_rng(0).integers(0, 256, (48, 80, 3), np.uint8)  # no two scores are alike
    with InstanceSegmenter.open(run, ON_CPU.name) as theirs, InstanceSegmenter.open(things, ON_CPU.name) as ours:
        assert_same(theirs(frame), ours(frame))


# predict


def test_predict_writes_id_map_overlay_and_cocos_json(found_in_all: Path, tmp_path: Path, image: Path) -> None:
    code, _, _ = call("predict", found_in_all, image, "-o", tmp_path / "out", "--colour")
    written = json.loads((tmp_path / "out" / "things" / "one.json").read_text())
    with InstanceSegmenter.open(found_in_all) as segmenter:
        found = segmenter(image)

    assert code == 0
    assert written["annotations"] == json.loads(json.dumps(found.coco("one.png")))
    assert [category["name"] for category in written["categories"]] == ["disc", "box"]
    assert written["image"] == {"id": "one.png", "file_name": "one.png", "height": 40, "width": 60}
    ids: Any = read_image(tmp_path / "out" / "masks" / "one.png")[:, :, 0]
    assert (ids == found.panoptic()).all()
    assert set(np.unique(classes_in(ids))) == {0, 1, 2}
    assert read_image(tmp_path / "out" / "overlays" / "one.png").shape == (40, 60, 3)
    assert read_image(tmp_path / "out" / "colours" / "one.png").shape == (40, 60, 3)


def test_predict_says_where_there_may_be_more_things_than_the_network_has_rows(tmp_path: Path, image: Path) -> None:
    run = make_things_run(tmp_path / "run", CONTRACT.model_copy(update={"threshold": 0.0}))
    _, _, err = call("predict", run, image, "-o", tmp_path / "out")

    assert json.loads((tmp_path / "out/things/one.json").read_text())["there_may_be_more"]
    assert "each of the network's 4 rows is a thing: there may be more, see --tiled" in " ".join(err.split())


def test_predict_finds_things_in_tiles_and_tells_each_once(found_in_all: Path, tmp_path: Path, image: Path) -> None:
    code, _, _ = call("predict", found_in_all, image, "-o", tmp_path / "out", "--tiled")
    written = json.loads((tmp_path / "out" / "things" / "one.json").read_text())
    with InstanceSegmenter.open(found_in_all) as segmenter:
        found, whole = segmenter.tiled(image), segmenter(image)

    assert code == 0
    assert len(found) > len(whole)  # every tile shows the same two
    assert written["annotations"] == json.loads(json.dumps(found.coco("one.png")))
    assert (read_image(tmp_path / "out" / "masks" / "one.png")[:, :, 0] == found.panoptic()).all()


def test_predict_writes_of_each_frame_of_a_video_what_it_writes_of_an_image(found_in_all: Path, tmp_path: Path) -> None:
    make_video(tmp_path / "clip.mp4", 2)
    words = ("predict", found_in_all, tmp_path / "clip.mp4", "-o", tmp_path / "out")

    assert call(*words, "--colour")[0] == 0
    assert names_below(tmp_path / "out") == [
        *(f"colours/clip/00000{number}.png" for number in range(2)),
        "masks/clip/.segpipe.json",
        *(f"masks/clip/00000{number}.png" for number in range(2)),
        *(f"things/clip/00000{number}.json" for number in range(2)),
        "videos/clip.mp4",
    ]
    written = json.loads((tmp_path / "out/things/clip/000001.json").read_text())
    assert written["image"] == {"id": "000001.png", "file_name": "000001.png", "height": 64, "width": 96}
    assert [entry["category_id"] for entry in written["annotations"]] == [1, 2]
    with InstanceSegmenter.open(found_in_all) as segmenter:
        ids = segmenter(np.zeros((64, 96, 3), np.uint8)).panoptic()  # it finds the same in every frame
    assert (read_image(tmp_path / "out/masks/clip/000001.png")[:, :, 0] == ids).all()


def test_a_video_of_things_is_skipped_until_its_json_is_no_longer_what_was_written(
    found_in_all: Path, tmp_path: Path
) -> None:
    make_video(tmp_path / "clip.mp4", 2)
    words = ("predict", found_in_all, tmp_path / "clip.mp4", "-o", tmp_path / "out")
    call(*words)
    file = tmp_path / "out/things/clip/000001.json"
    before, made = file.read_bytes(), file.stat().st_mtime_ns

    assert call(*words)[0] == 0
    assert file.stat().st_mtime_ns == made
    file.write_bytes(before.replace(b'"score": 0.9', b'"score": 0.8'))
    assert call(*words)[0] == 0
    assert file.read_bytes() == before


def test_what_was_found_is_skipped_until_it_is_no_longer_what_was_written(
    found_in_all: Path, tmp_path: Path, image: Path
) -> None:
    words = ("predict", found_in_all, image, "-o", tmp_path / "out")
    call(*words)
    file = tmp_path / "out" / "things" / "one.json"
    before = file.read_bytes()
    made = file.stat().st_mtime_ns

    assert call(*words)[0] == 0
    assert file.stat().st_mtime_ns == made
    file.write_bytes(before.replace(b'"score": 0.9', b'"score": 0.8'))
    assert call(*words)[0] == 0
    assert file.read_bytes() == before


def test_somebodys_json_is_not_replaced(found_in_all: Path, tmp_path: Path, image: Path) -> None:
    file = tmp_path / "out" / "things" / "one.json"
    file.parent.mkdir(parents=True)
    file.write_text('{"mine": true}')

    code, _, err = call("predict", found_in_all, image, "-o", tmp_path / "out")

    assert code == 1
    assert "is not segpipe's" in err
    assert file.read_text() == '{"mine": true}'


# batch


def test_a_batch_of_things_writes_id_maps_json_and_an_index(found_in_all: Path, tmp_path: Path, image: Path) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    words = ("batch", found_in_all, image.parent, "-o", tmp_path / "out", "--outputs", "mask,rle")
    code, folder, err = call(*words)
    assert code == 0, err
    made = Path(folder.strip())
    with InstanceSegmenter.open(found_in_all) as segmenter:
        found = segmenter(image)
    (row,) = pq.read_table(made / "index").to_pylist()

    told = json.loads(json.dumps(found.coco("one.png")))
    assert json.loads((made / "things/one.json").read_text())["annotations"] == told
    assert (read_image(made / "masks/one.png")[:, :, 0] == found.panoptic()).all()
    assert json.loads(row["rle"]) == told
    counts = [int((classes_in(found.panoptic()) == number).sum()) for number in range(3)]
    assert row["shares"] == pytest.approx([count / (40 * 60) for count in counts])
    assert call("batch", "summary", tmp_path / "out")[0] == 0


def test_a_batch_makes_things_again_whose_json_is_gone_or_changed(
    found_in_all: Path, tmp_path: Path, image: Path
) -> None:
    pytest.importorskip("pyarrow")
    words = ("batch", found_in_all, image.parent, "-o", tmp_path / "out")
    made = Path(call(*words)[1].strip()) / "things/one.json"
    before = made.read_bytes()

    made.unlink()
    assert call(*words)[0] == 0
    assert made.read_bytes() == before
    made.write_text('{"mine": true}')
    (made.parents[1] / "masks/one.png").unlink()
    code, _, err = call(*words)
    assert code == 1
    assert "carries no record of segpipe" in err
    assert made.read_text() == '{"mine": true}'


# serve


def test_a_server_of_things_answers_what_accept_asks_for(found_in_all: Path, image: Path) -> None:
    with InstanceSegmenter.open(found_in_all) as segmenter:
        found = segmenter(image)
    with serving(found_in_all) as served:
        body = image.read_bytes()
        told, ids, overlay = (
            served.segment(body, accept) for accept in ("*/*", "image/png", "image/png; show=overlay")
        )
        refused = served.segment(body, "application/octet-stream")
        page = served.ask("GET", "/")
        model = served.ask("GET", "/model").json

    assert told.json["annotations"] == json.loads(json.dumps(found.coco("picture")))
    assert told.headers["x-segpipe-mask"] == "uint16 40x60"
    assert (ids.mask == found.panoptic()).all()
    assert overlay.mask.shape == (40, 60, 3)
    assert (refused.status, page.status) == (406, 307)
    assert model["contract"]["things"] == ["disc", "box"]


# who cannot yet


def refusals(run: Path, image: Path, out: Path) -> dict[str, tuple[object, ...]]:
    """Commands that would need more than is there, by a name."""
    return {
        "raw": ("predict", run, "-", "-o", "-", "--size", "40", "60"),
        "geotiff": ("predict", run, image, "-o", out, "--geotiff"),
        "batch of confidence": ("batch", run, image.parent, "-o", out, "--outputs", "mask,confidence"),
        "shadow": ("serve", run, "--port", "0", "--shadow", "0.5"),
        "triton": ("triton", run, "-o", out),
        "web": ("web", run, "-o", out / "page.html", "--allow-unvalidated"),
        "against": ("validate", run, "--against", run),
        "auto-islands": ("run", run, "--from", "export", "--auto-islands"),
        "end-to-end": ("export", run, "--end-to-end"),
        "compress": ("compress", run, "--macs", "0.5", "-o", out),
    }


@pytest.mark.parametrize("name", list(refusals(Path(), Path("x/y"), Path())))
def test_a_command_that_does_not_know_things_says_so_in_one_line(
    name: str, things: Path, tmp_path: Path, image: Path
) -> None:
    code, _, err = call(*map(str, refusals(things, image, tmp_path / "out")[name]))
    said = [line for line in err.splitlines() if line.startswith("error")]

    assert code in {1, 2}
    assert len(said) == 1
    assert "things" in said[0] or "instances" in said[0]


def test_the_demo_of_another_task_wants_another_folder(things: Path) -> None:
    code, _, err = call("demo", things, "--task", "semantic")

    assert code == 1
    assert "a run for the task 'instances'" in err
