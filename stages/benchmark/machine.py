"""The machine that figures belong to. Imports nothing heavy."""

import platform

from segpipe.cores import usable_cores
from segpipe.processor import processor
from segpipe.runtime.cuda.driver_library import gpus
from stages.results.benchmark import Machine


def machine() -> Machine:
    """What the figures belong to."""
    gpu = next((gpu.name for gpu in gpus()), "")
    return Machine(processor=processor(), gpu=gpu, cores=usable_cores(), python=platform.python_version())
