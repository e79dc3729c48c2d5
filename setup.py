"""Builds the kernels for CPUs (pixels.c) where there is a C compiler. Without one, numpy does their work."""

import hashlib
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel

SOURCE = "segpipe/runtime/compiled/pixels.c"


class Wheel(bdist_wheel):
    """For every Python, which the library does not know; without the library also for every machine."""

    def get_tag(self) -> tuple[str, str, str]:
        """Asked for when everything is built."""
        built = any(Path(path).is_file() for path in self.get_finalized_command("build_ext").get_outputs())
        return "py3", "none", super().get_tag()[2] if built else "any"


setup(
    ext_modules=[
        Extension(
            "segpipe.runtime.compiled.pixels",
            [SOURCE],
            define_macros=[("PIXELS_SOURCE", f'"{hashlib.sha256(Path(SOURCE).read_bytes()).hexdigest()}"')],
            # Behind whatever the environment asks for: the bits are numpy's, on every processor of this kind.
            extra_compile_args=["-std=c11", "-O3", "-g0", "-fno-fast-math", "-ffp-contract=off"],
            py_limited_api=True,
            optional=True,
        )
    ],
    cmdclass={"bdist_wheel": Wheel},
)
