"""`python -m tests.ray_driver ADDRESS RUN SOURCE OUT`: a batch on Ray whose workers are ended by `poison.png`."""

import json
import sys
from contextlib import closing, nullcontext
from pathlib import Path

from segpipe.artifacts import AUTO
from segpipe.batch.actor import Opening, packed
from segpipe.batch.cluster import Size
from segpipe.batch.crew import ManyHands
from segpipe.batch.driver import Request, predict_batch
from segpipe.batch.on_ray import connected
from segpipe.predicting.job import Advance, Job
from tests.batch_workers import Deadly

JOB = Job(Path(), overlay=False)


def main(address: str, run: str, source: str, out: str) -> None:
    size = Size(2, per_call=2, address=address)
    opening = Opening(JOB, ("mask",), AUTO, None, False, threads=1, worker=Deadly)
    bundle = packed(Path(run))
    with connected(size, len(bundle)) as hands, closing(ManyHands(hands, bundle, opening, size)) as crew:
        state = predict_batch(crew, Request(source, out, JOB, crew.version()), _unseen)
    print(json.dumps({"done": state.done, "broken": state.broken}))


def _unseen(total: int) -> nullcontext[Advance]:
    return nullcontext(_ticked)


def _ticked(frames: int, /, *, skipped: bool = False) -> None:
    """Nobody watches."""


if __name__ == "__main__":
    main(*sys.argv[1:])
