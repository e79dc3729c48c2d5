"""`segpipe compress`: budgets, the order of the rungs, what is kept and why, and a rung made from a trained run."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from segpipe.errors import (
    ArtifactMissingError,
    BackendMissingError,
    ConfigError,
    GateFailedError,
    InputError,
    RunLockedError,
    SegpipeError,
)
from segpipe.rundir import lock
from segpipe.rundir.directory import RunDirectory
from segpipe.runtime.segmenter import Segmenter
from stages.config.compress import CompressConfig, CutTooFarError
from stages.ladder import candidates, rungs
from stages.ladder import climb as climbing
from stages.ladder.budget import Budget, budget
from stages.ladder.candidates import Bench, Candidate, Speed
from stages.ladder.climb import AS_IT_IS, Outcome, Terms, climb, require_kept
from stages.ladder.rungs import Rung, made
from stages.ladder.shares import Try, next_share
from stages.ladder.source import Source, source_of
from stages.ladder.table import remarks, rows
from stages.ladder.training import announced
from stages.measuring.others import load_warnings
from tests.calling import call

PASSING = (  # what the gate asks is not the question here, and trainings differ from processor to processor
    *(f"validate.limits.max_{name}_int8=1" for name in
      ("miou_drop", "iou_drop", "flips_inside", "flips_boundary", "large_margin_flips")),
    *(f"validate.limits.min_{name}_int8=0" for name in ("agreement", "image_agreement")),
    *(f"validate.limits.max_{name}_int8=1e6" for name in ("relative_l2", "stress_relative_l2")),
)  # fmt: skip
QUICK = ("benchmark.rounds=2", "benchmark.seconds=1", "benchmark.frames=1", "compress.calibration_images=4")


@pytest.mark.parametrize(
    ("given", "limit"),
    [({"latency": "5ms"}, 5), ({"latency": "0.25 s"}, 250), ({"size": "4MB"}, 4e6), ({"size": "1.5MiB"}, 1.5 * 2**20),
     ({"macs": 0.5}, 0.5), ({"macs": 1.0}, 1)],
)  # fmt: skip
def test_a_budget_is_read_with_its_unit(given: dict[str, Any], limit: float) -> None:
    assert budget(**{"latency": None, "macs": None, "size": None, **given}).limit == limit


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "wanted one budget"),
        ({"latency": "5ms", "macs": 0.5}, "wanted one budget"),
        ({"macs": 0.0}, "--macs 0 is no share"),
        ({"macs": 1.01}, "--macs 1.01 is no share"),
        ({"macs": float("nan")}, "--macs nan is no share"),
        ({"latency": "5"}, "units are us, ms, s"),
        ({"latency": "0ms"}, "no amount above 0"),
        ({"latency": "-1ms"}, "no amount above 0"),
        ({"latency": "1e9999ms"}, "no amount above 0"),
        ({"size": "4 furlongs"}, "units are B, kB"),
    ],
)
def test_a_budget_that_is_none_is_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        budget(**{"latency": None, "macs": None, "size": None, **given})


def test_shares_follow_the_line_through_what_is_known() -> None:
    def cost(share: float) -> float:
        return 2 + 8 * share

    tries: list[Try] = []
    while not tries or (tries[-1].cost or 0) > 5:
        share = next_share(cost(1.0), 5, tries)
        assert share is not None
        tries.append(Try(share, cost(share)))

    assert [one.share for one in tries] == [0.25]
    assert next_share(cost(1.0), 3, [Try(0.25, cost(0.25))]) == 0.1
    assert next_share(10, 1, [Try(0.05, 9)]) is None, "there is nothing below"
    assert next_share(10, 5, [Try(0.2, None)]) == 0.25, "what cannot be cut so far is cut less"
    assert next_share(10, 5, [Try(0.2, None), Try(0.25, 6)]) is None
    assert next_share(10, 5, [Try(0.5, 10)]) == 0.25, "where cutting brought nothing, half of it is next"


def candidate(rung: str, backend: str = "onnxruntime-cpu", **changes: Any) -> Candidate:
    precision = "int8" if "int8" in backend else "fp32"
    base = Candidate(rung, Path(rung), backend, precision, "", 4_000_000, 1.0, 0.8, None, Speed(10, 9, 11))
    return replace(base, **changes)


FULL = [candidate(AS_IT_IS)]
INT8 = [candidate("int8"), candidate("int8", "onnxruntime-cpu-int8", size_bytes=1_000_000, miou=0.79)]
TRAINED = [candidate("int8-trained", "onnxruntime-cpu-int8", size_bytes=1_000_000, miou=0.78)]


def closed(found: list[Candidate]) -> list[Candidate]:
    return [replace(one, why_closed="failed") if one.precision == "int8" else one for one in found]


def cut(rung: str, size: int) -> list[Candidate]:
    return [candidate(rung, "onnxruntime-cpu-int8", size_bytes=size, macs_share=0.5, miou=0.7 + 0.01 * len(rung))]


Climb = Callable[..., tuple[Outcome, list[Rung]]]


@pytest.fixture
def climbed(finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Climb:
    """The ladder with rungs that cost what the test says: nothing is made or measured."""

    def run(wanted: Budget, made: dict[str, list[Candidate] | SegpipeError], **changes: Any) -> Any:
        tried: list[Rung] = []

        def make(rung: Rung, source: Source, folder: Path, builds: bool) -> RunDirectory:
            tried.append(rung)
            found = made[rung.name]
            if isinstance(found, SegpipeError):
                raise found
            return source.run

        def measure(self: Any, rungs: list[tuple[str, RunDirectory]]) -> list[Candidate]:
            return [one for name, _ in rungs for one in (FULL if name == AS_IT_IS else made[name])]  # type: ignore[union-attr]

        monkeypatch.setattr(climbing, "made", make)
        monkeypatch.setattr(Bench, "measure", measure)
        source = source_of(finished_run, [])
        return climb(replace(source, **changes), Terms(wanted, tmp_path / "rungs")), tried

    return run


def test_nothing_is_made_where_the_run_fits_as_it_is(climbed: Climb) -> None:
    outcome, tried = climbed(Budget("size", 5e6), {})

    assert outcome.kept is FULL[0]
    assert not tried


def test_int8_is_enough_where_it_fits_and_passed(climbed: Climb) -> None:
    outcome, tried = climbed(Budget("size", 2e6), {"int8": INT8})

    assert outcome.kept is INT8[1]
    assert [rung.name for rung in tried] == ["int8"]
    assert [row[-1] for row in rows(outcome)] == ["too large", "too large", "kept"]
    assert any(line.startswith("kept        int8, onnxruntime-cpu-int8: the only one") for line in remarks(outcome))


def test_int8_that_the_gate_keeps_closed_is_trained_and_stays_so_below(climbed: Climb) -> None:
    made = {"int8": closed(INT8), "int8-trained": closed(TRAINED)}
    _, tried = climbed(Budget("size", 2e6), {**made, "int8-trained": TRAINED})
    assert [rung.name for rung in tried] == ["int8", "int8-trained"]

    outcome, tried = climbed(Budget("size", 6e5), {"int8": closed(INT8), "int8-trained": TRAINED,
                                                   "pruned-0.35": cut("pruned-0.35", 500_000)})  # fmt: skip
    assert [rung.name for rung in tried] == ["int8", "int8-trained", "pruned-0.35"]
    assert tried[-1].settings == {"int8": "qat", "qat_epochs": 5, "prune": {"macs": 0.35, "epochs": 5}}
    assert outcome.kept is not None


def test_pruning_goes_on_until_it_fits_and_the_most_accurate_that_does_is_kept(climbed: Climb) -> None:
    last = cut("pruned-0.05", 400_000)
    outcome, tried = climbed(
        Budget("size", 5e5),
        {"int8": INT8, "pruned-0.25": cut("pruned-0.25", 600_000), "pruned-0.05": last},
    )  # fmt: skip

    assert [rung.name for rung in tried] == ["int8", "pruned-0.25", "pruned-0.05"]
    assert outcome.kept is last[0]
    assert tried[1].settings == {"int8": "ptq", "prune": {"macs": 0.25, "epochs": 5}}


def test_what_cannot_be_cut_is_said_and_nothing_fits(climbed: Climb) -> None:
    outcome, _ = climbed(Budget("macs", 0.5), {"pruned-0.50": ConfigError("no layer of it", hint="leave it")})

    assert outcome.troubles == {"pruned-0.50": "no layer of it"}
    assert "not made    pruned-0.50: no layer of it" in [*remarks(outcome)]
    with pytest.raises(GateFailedError, match="nothing fits 50% of the MACs: the least that passed takes 100%"):
        require_kept(outcome)


def test_only_a_share_that_is_too_small_is_followed_by_a_larger_one(climbed: Climb) -> None:
    too_far = CutTooFarError("no more of this network can be cut away", hint="less")
    made = {"int8": INT8, "pruned-0.25": too_far, "pruned-0.30": cut("pruned-0.30", 400_000)}
    found, tried = climbed(Budget("size", 5e5), made)
    assert [rung.name for rung in tried] == ["int8", "pruned-0.25", "pruned-0.30"]
    assert found.kept is not None

    for hopeless in (ConfigError("no layer of it can lose a channel"), BackendMissingError("needs torch-pruning")):
        outcome, tried = climbed(Budget("size", 4e5), {"int8": INT8, "pruned-0.10": hopeless})
        assert [rung.name for rung in tried] == ["int8", "pruned-0.10"], "each would train for nothing"
        assert outcome.troubles == {"pruned-0.10": hopeless.message}


def test_times_of_a_busy_machine_are_warned_of_below_the_table(climbed: Climb, monkeypatch: pytest.MonkeyPatch) -> None:
    outcome, _ = climbed(Budget("size", 5e6), {})
    assert not [line for line in remarks(outcome) if "warning" in line]
    assert outcome.as_dict()["doubts"] == []

    busy = replace(outcome, doubts=load_warnings(0.5))
    assert next(remarks(busy)).startswith("warning     other work had 50% of the processor while this was measured: ")
    assert busy.as_dict()["doubts"] == list(load_warnings(0.5))


def test_a_rung_says_how_long_it_will_train_unless_it_has(finished_run: Path, tmp_path: Path) -> None:
    source = source_of(finished_run, [])
    own = source.run.manifest.stages["train"]
    source.run.manifest.stages["train"] = own.model_copy(update={"seconds": 60.0 * own.figures["epochs"]})
    shutil.copytree(finished_run, tmp_path / "rung")
    rung = RunDirectory(tmp_path / "rung")

    def said(**compress: Any) -> str | None:
        settings = CompressConfig.model_validate(compress)
        return announced("it", source, rung, source.config.model_copy(update={"compress": settings}))

    assert said(int8="ptq") is None
    assert said(prune={"macs": 0.5, "epochs": 4}) == "it trains 8 epochs, about 8 min (this run's own took 60 s each)"
    assert said(int8="qat", qat_epochs=1) == "it trains 1 epoch, about 60 s (this run's own took 60 s each)"
    done = own.model_copy(update={"params": {**own.params, "compress.prune": {"macs": 0.5, "epochs": 4}}})
    rung.manifest.stages["train"] = done
    assert said(prune={"macs": 0.5, "epochs": 4}) is None


def test_how_long_a_rung_trains_is_said_before_it_does(
    finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setattr(rungs, "run_stages", lambda *_: RunDirectory(tmp_path / "pruned"))
    source = source_of(finished_run, [])
    made(Rung("pruned", {"prune": {"macs": 0.5, "epochs": 4}}), source, tmp_path, builds=False)
    made(Rung("int8", {"int8": "ptq"}), source, tmp_path, builds=False)

    said = [message for message in caplog.messages if " trains " in message]
    assert [message.partition(",")[0] for message in said] == ["compress: pruned trains 8 epochs"]


def test_a_rung_is_not_taken_for_the_run_and_trained(
    finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rungs, "run_stages", lambda *_: RunDirectory(tmp_path / "int8"))
    rung = made(Rung("int8", {"int8": "ptq"}), source_of(finished_run, []), tmp_path, builds=False)

    with pytest.raises(InputError, match=r"was made by `segpipe compress`.* the first line of .*segpipe.toml names"):
        source_of(rung.path, [])


def test_a_network_that_the_gate_refused_is_never_kept(climbed: Climb) -> None:
    failed = [replace(one, why_closed="failed") for one in cut("pruned-0.50", 400_000)]
    outcome, tried = climbed(Budget("macs", 0.5), {"pruned-0.50": failed})

    assert [rung.name for rung in tried] == ["pruned-0.50"]
    assert outcome.kept is None


def test_shares_that_were_begun_are_gone_on_with_whatever_is_measured_now(climbed: Climb, tmp_path: Path) -> None:
    (tmp_path / "rungs").mkdir()
    made = {"int8": INT8, "pruned-0.25": cut("pruned-0.25", 400_000)}
    climbed(Budget("size", 5e5), made)
    slower = [candidate("int8", "onnxruntime-cpu-int8", size_bytes=800_000)]
    _, tried = climbed(Budget("size", 5e5), {**made, "int8": slower})

    assert [rung.name for rung in tried] == ["int8", "pruned-0.25"]
    (tmp_path / "rungs/ladder.json").write_text("{")
    with pytest.raises(InputError, match="delete it: only the order"):
        climbed(Budget("size", 5e5), made)


def test_two_at_once_are_told_so(climbed: Climb, tmp_path: Path) -> None:
    (tmp_path / "rungs").mkdir()
    with lock.exclusive(tmp_path / "rungs"), pytest.raises(RunLockedError, match="is being written by another"):
        climbed(Budget("size", 5e6), {})


def test_a_run_without_a_network_or_a_verdict_is_refused_at_once(finished_run: Path, tmp_path: Path) -> None:
    empty = RunDirectory.create(tmp_path / "empty").path
    shutil.copy(finished_run / "segpipe.toml", empty)
    with pytest.raises(ArtifactMissingError, match=r"stage 'train' has not run .*--until train"):
        source_of(empty, [])
    with pytest.raises(InputError, match=r"was trained with other settings or data \(train.seed default -> 9\)"):
        source_of(finished_run, ["train.seed=9"])
    with pytest.raises(InputError, match=r"data changed|data.val"):
        source_of(finished_run, ["data.val=5"])
    with pytest.raises(InputError, match=r"has \[compress.prune\] in its settings: it is smaller already"):
        source_of(finished_run, ["compress.prune.macs=0.5"])


def test_an_imported_network_cannot_be_pruned_and_that_is_said_at_once(tmp_path: Path, finished_run: Path) -> None:
    source = source_of(finished_run, [])
    with RunDirectory.create(tmp_path / "run").step("import", {"model": "x"}, {}) as step:
        step.path("model.onnx").write_bytes(b"graph")
    imported = replace(source, run=RunDirectory(tmp_path / "run"))

    with pytest.raises(InputError, match="only pruning lowers the MACs, and an imported network is a graph without"):
        climb(imported, Terms(Budget("macs", 0.5), tmp_path / "rungs"))
    assert not (tmp_path / "rungs").exists()


@pytest.mark.parametrize("name", ["int8", "linked", "dangling"])
def test_somebodys_folder_under_a_rungs_name_is_left_alone(finished_run: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "int8/photos").mkdir(parents=True)
    (tmp_path / "linked").symlink_to("int8")
    (tmp_path / "dangling").mkdir()
    (tmp_path / "dangling/segpipe.toml").symlink_to("nowhere")
    before = sorted(tmp_path.rglob("*"))

    with pytest.raises(InputError, match="is not from `segpipe compress` for this run"):
        made(Rung(name, {"int8": "ptq"}), source_of(finished_run, []), tmp_path, builds=False)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_runs_name_cannot_break_its_rungs_settings(
    finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "a\nb = 1\x1b"
    shutil.copytree(finished_run, run)
    monkeypatch.setattr(rungs, "run_stages", lambda *_: RunDirectory(tmp_path / "int8"))
    for _ in range(2):  # the second time it is known again
        made(Rung("int8", {"int8": "ptq"}), source_of(run, []), tmp_path, builds=False)

    assert (
        (tmp_path / "int8/segpipe.toml")
        .read_text()
        .splitlines()[0]
        .startswith(r"# Written by `segpipe compress` for a\nb = 1\x1b: the next one writes it anew.")
    )


def test_rungs_of_another_run_of_the_same_name_are_left_alone_and_older_ones_are_known(
    finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rungs, "run_stages", lambda *_: RunDirectory(tmp_path / "out/int8"))
    (tmp_path / "out").mkdir()
    sources = []
    for parent, key in (("a", "1" * 64), ("b", "2" * 64)):
        shutil.copytree(finished_run, tmp_path / parent / "run")
        source = source_of(tmp_path / parent / "run", [])
        record = source.record
        changed = record.model_copy(update={"key": key, "inputs": {**record.inputs, "data": key}})
        source.run.manifest.stages[source.origin] = changed
        sources.append(source)
    rung, settings = Rung("int8", {"int8": "ptq"}), tmp_path / "out/int8/segpipe.toml"
    made(rung, sources[0], tmp_path / "out", builds=False)

    for old in (False, True):
        if old:
            head, _, rest = settings.read_text().partition(" Network ")
            settings.write_text(head + "\n" + rest.partition("\n")[2])
        with pytest.raises(InputError, match="is not from `segpipe compress` for this run"):
            made(rung, sources[1], tmp_path / "out", builds=False)
        made(rung, sources[0], tmp_path / "out", builds=False)

    record = sources[0].record
    sources[0].run.manifest.stages[sources[0].origin] = record.model_copy(update={"key": "3" * 64})
    made(rung, sources[0], tmp_path / "out", builds=False)  # trained again
    assert "Network 333" in settings.read_text()


def test_a_rung_is_a_run_of_its_own_with_its_verdict(trained_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(candidates, "_WARM_UP_S", 0.05)
    before = {path: path.read_bytes() for path in trained_copy.rglob("*") if path.is_file()}
    size = RunDirectory(trained_copy).recorded("export", "model.onnx").size_bytes - 1
    sets = [word for setting in (*QUICK, *PASSING) for word in ("--set", setting)]
    code, out, err = call("compress", trained_copy, "--size", f"{size}B", "--json", *sets)
    assert code == 0, err
    found = json.loads(out)
    kept = found["kept"]

    assert kept["rung"] == "int8"
    assert Path(kept["path"]) == trained_copy.parent / f"{trained_copy.name}-compressed" / "int8"
    assert kept["drop"]["low"] <= kept["drop"]["value"] <= kept["drop"]["high"]
    assert kept["size_bytes"] <= size
    assert {one["rung"] for one in found["candidates"]} == {AS_IT_IS, "int8"}
    with Segmenter.open(kept["path"], kept["backend"]) as segmenter:
        assert segmenter.describe()["backend"] == kept["backend"]
    rung = RunDirectory(Path(kept["path"]))
    assert rung.record("train").outputs == RunDirectory(trained_copy).record("train").outputs
    changed = [path for path, data in before.items() if path.read_bytes() != data]
    assert not [path for path in changed if path.name != ".lock"], "the run stays as it is"

    settings = (rung.path / "segpipe.toml").read_text()
    (rung.path / "segpipe.toml").write_text(settings.replace(f"for {trained_copy.name}:", "for another:", 1))
    code, _, err = call("compress", trained_copy, "--size", f"{size}B", *sets)
    assert (code, "is not from `segpipe compress`" in err) == (1, True)
