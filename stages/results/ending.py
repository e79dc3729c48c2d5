"""How a run ends for a person: its figures in a few lines, stage by stage, and the next command."""

from segpipe.errors import word
from segpipe.rundir.directory import TOML_NAME, RunDirectory
from stages.results.figures import MODELS, TrainFigures, ValidateFigures, read
from stages.table import NAMES, TABLE


def figure_lines(rundir: RunDirectory, last: str = "") -> list[str]:
    """What each stage has to say, up to `last` where it is named: accuracy, engines, agreement, speed."""
    lines: list[str] = []
    for stage in TABLE:
        figures = read(MODELS[stage.name], rundir.manifest.stages)
        lines += figures.lines() if figures else ()
        if stage.name == last:
            break
    return lines


def next_line(rundir: RunDirectory, last: str) -> str:
    """What to do now."""
    if NAMES.index(last) < NAMES.index(ValidateFigures.stage):
        return f"next        segpipe run {word(rundir.path)}"
    judged = read(ValidateFigures, rundir.manifest.stages)
    if not judged or not judged.warnings:
        return f"next        segpipe predict {word(rundir.path)} IMAGES -o OUT"
    check = f"segpipe data check {word(rundir.path)}"
    trained = read(TrainFigures, rundir.manifest.stages)
    if trained is not None and trained.adopted:
        return f"next        {check}; then compare [input] with what the network was trained with"
    if TrainFigures.stage not in rundir.manifest.stages:
        return f"next        {check}"
    again = f"raise [train] epochs in {word(rundir.path / TOML_NAME)} and segpipe run {word(rundir.path)}"
    return f"next        {check}; then {again}"
