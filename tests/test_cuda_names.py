"""The names that the CUDA providers use, against the packages: neither provider can run without a GPU."""

import ast
from pathlib import Path

import pytest

CUDA = Path(__file__).parents[1] / "segpipe/runtime/cuda"


def attributes(path: Path, module: str) -> set[tuple[str, ...]]:
    """Chains such as ('CUstream_flags', 'CU_STREAM_NON_BLOCKING') that a source takes from a module's name."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        chain: list[str] = []
        inner = node
        while isinstance(inner, ast.Attribute):
            chain.insert(0, inner.attr)
            inner = inner.value
        if chain and isinstance(inner, ast.Name) and inner.id == module:
            found.add(tuple(chain))
    return found


@pytest.mark.parametrize(("file", "module"), [("by_cuda_python.py", "driver"), ("compiling.py", "nvrtc")])
def test_cuda_bindings_have_every_name_we_use(file: str, module: str) -> None:
    package = pytest.importorskip(f"cuda.bindings.{module}", reason="cuda-bindings is not installed")
    chains = attributes(CUDA / file, module)

    assert len(chains) > 5
    for chain in chains:
        owner = package
        for name in chain[:2]:
            assert hasattr(owner, name), ".".join(chain)
            owner = getattr(owner, name)


def test_only_the_cuda_package_calls_cuda() -> None:
    root = CUDA.parents[2]
    users = {
        path.relative_to(root).parts[:3]
        for path in [*root.glob("segpipe/**/*.py"), *root.glob("stages/**/*.py")]
        for node in ast.walk(ast.parse(path.read_text()))
        for name in imported(node)
        if name.partition(".")[0] in {"cuda", "pycuda", "cupy"}
    }

    assert users == {("segpipe", "runtime", "cuda")}


def test_autoinit_is_never_imported() -> None:
    for path in CUDA.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            assert not any("autoinit" in name for name in imported(node)), path


def imported(node: ast.AST) -> list[str]:
    """Modules that a statement imports."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [node.module or ""] if isinstance(node, ast.ImportFrom) else []
