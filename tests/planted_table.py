"""Plants every defect and says what came of it. `python -m tests.planted_table` trains a run and prints the table:
defect, verdict, what was said; it exits 1 where one is not as wanted."""

import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from segpipe.errors import ArtifactDamagedError, BackendError, NotValidatedError, SegpipeError
from segpipe.rundir.directory import RunDirectory
from segpipe.runtime.segmenter import Segmenter
from segpipe.verdict import FILE_NAME, STAGE
from stages.pipeline import Selection, run_stages
from stages.results.gate import Status
from stages.validate.explaining.suspects import suspect
from stages.validate.hops.inputs import Image
from stages.validate.judging.gate import judge_labels
from stages.validate.without_pytorch import validate_hop
from tests.good_run import Good
from tests.planted import DEFECTS, honest
from tests.trained import edit_graph, replace_output, trained_config


@dataclass(frozen=True)
class Row:
    """What came of it."""

    defect: str
    verdict: str
    failed: tuple[str, ...]
    said: str
    as_wanted: bool


def judged(good: Good, name: str) -> Row:
    """One defect, by the limits."""
    defect = DEFECTS[name]
    _, state = good.judge(defect.plant(good), defect.exact)
    held = state.checks(good.setup)
    status: Status = "failed" if state.differs(good.setup) else "passed"
    failed = tuple(check.name for check in held if check.status == "failed")
    suspicions = suspect(state, good.contract) if failed else ()
    said = "; ".join([*suspicions, *(check.line() for check in held if check.status == "failed")])
    as_wanted = bool(failed) == bool(defect.limits) and defect.limits <= set(failed) and defect.words in said
    return Row(name, status, failed, said, as_wanted)


def shifted_labels(good: Good, step: int) -> Row:
    """Labels off by one class: every hop's verdict fails with them."""

    def moved(image: Image) -> Image:
        if image.labels is None:
            return image
        classes = len(good.contract.classes)
        labels = np.where(image.labels < classes, (image.labels.astype(int) + step) % classes, image.labels)
        return replace(image, labels=labels.astype(np.uint8))

    judge, _ = good.judge(honest(good), images=[moved(image) for image in good.images])
    (check,), words = judge_labels(good.run, judge, good.setup)
    as_wanted = check.status == "failed" and f"the labels look shifted by {step:+d} class" in "; ".join(words)
    said = "; ".join([*words, check.line()])
    return Row(f"labels shifted by {step:+d}", check.status, (check.name,), said, as_wanted)


def break_graph(path: Path) -> None:
    """One layer of model.onnx is scaled; hashes and records are in order."""
    run = RunDirectory(path)
    graph = run.artifact_bytes("export", "model.onnx")
    broken = edit_graph(graph, lambda name, values: values * 1.2 if name == "down2.3.weight" else values)
    replace_output(run, "export", "model.onnx", broken)


def another_export(path: Path) -> None:
    """The run's FP16 graph is another one than its engine was built from; then the engine is judged."""
    run = RunDirectory(path)
    graph = edit_graph(run.artifact_bytes("export", "model.fp16.onnx"), lambda _, values: values * 1.001)
    replace_output(run, "export", "model.fp16.onnx", graph)
    validate_hop(RunDirectory(path), "engine")


def stale_verdict(path: Path) -> None:
    """The graph changes after it was judged; then the runtime opens it."""
    break_graph(path)
    Segmenter.open(path).close()


def edited_verdict(path: Path) -> None:
    """Somebody turns a verdict to passed; then the runtime opens the run."""
    file = RunDirectory(path).artifact(STAGE, FILE_NAME)
    file.write_text(file.read_text().replace("not judged", "passed"))
    Segmenter.open(path).close()


REFUSED: dict[str, tuple[Callable[[Path], None], type[SegpipeError], str]] = {
    "an engine of another export": (another_export, BackendError, "the engine was built from another export"),
    "a stale verdict": (stale_verdict, NotValidatedError, "no verdict for artifact"),
    "a verdict edited by hand": (edited_verdict, ArtifactDamagedError, "was changed after it was made"),
}


def refused(path: Path, name: str) -> Row:
    """One defect of a run's records, in a run of its own."""
    plant, kind, words = REFUSED[name]
    try:
        plant(path)
    except SegpipeError as error:
        return Row(name, "refused", (), str(error), isinstance(error, kind) and words in str(error))
    return Row(name, "opened", (), "", False)


def rows(path: Path) -> Iterator[Row]:
    """The whole table."""
    good = Good.of(path)
    yield from (judged(good, name) for name in DEFECTS)
    yield from (shifted_labels(good, step) for step in (1, -1))
    for number, name in enumerate(REFUSED):
        yield refused(Path(shutil.copytree(path, path.with_name(f"copy{number}"))), name)


def main() -> int:
    """Train, plant, print."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run"
        run_stages(path, trained_config(path), path, Selection(last="validate"))
        found = list(rows(path))
    print("| defect | verdict | failed limits | said | as wanted |\n|---|---|---|---|---|")
    for row in found:
        wanted = "yes" if row.as_wanted else "NO"
        print(f"| {row.defect} | {row.verdict} | {', '.join(row.failed)} | {row.said} | {wanted} |")
    return 0 if all(row.as_wanted for row in found) else 1


if __name__ == "__main__":
    sys.exit(main())
