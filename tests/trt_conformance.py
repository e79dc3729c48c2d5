"""Reads sources that use TensorRT and tells which attributes some supported version does not have.

The types of expressions are inferred from the facts: `builder.create_network()` is an INetworkDefinition because every
version's binding says so. Code under `if flavour == "tensorrt-rtx"`, and functions called only from there, is held to
TensorRT for RTX alone.
"""

import ast
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

FOLDER = Path(__file__).with_name("trt_facts")
MODULE = "<module>"
RTX, ENTERPRISE = "tensorrt-rtx", "tensorrt"
# What a name means where nothing tells: parameters, and loop variables.
NAMES = {
    "trt": MODULE,
    "builder": "Builder",
    "config": "IBuilderConfig",
    "context": "IExecutionContext",
    "engine": "ICudaEngine",
    "inspector": "EngineInspector",
    "layer": "ILayer",
    "network": "INetworkDefinition",
    "parser": "OnnxParser",
    "profile": "IOptimizationProfile",
    "runtime": "Runtime",
    "tensor": "ITensor",
}
_BUILT_IN = set(dir(dict)) | set(dir(list)) | set(dir(str))  # an object of ours under one of NAMES


@dataclass(frozen=True)
class Facts:
    """One version's classes: member -> the class it returns, or ''."""

    product: str
    version: str
    classes: dict[str, dict[str, str]]


@dataclass(frozen=True)
class Use:
    """One attribute of TensorRT's in a source."""

    line: int
    owner: str
    attribute: str
    product: str
    """'tensorrt', 'tensorrt-rtx', or '' for both."""


@cache
def all_facts() -> tuple[Facts, ...]:
    """Every supported version."""
    found = []
    for path in sorted(FOLDER.glob("*.json")):
        content = json.loads(path.read_text())
        product = RTX if path.name.startswith("tensorrt_rtx") else ENTERPRISE
        found.append(Facts(product, content["version"], content["classes"]))
    return tuple(found)


def problems(source: str) -> list[str]:
    """What some version lacks: 'line 12: BuilderFlag.FP16 is not in tensorrt 11.4'."""
    found = set(_Reader(ast.parse(source)).uses())
    return [
        f"line {use.line}: {use.owner}.{use.attribute} is not in {facts.product} {facts.version}"
        for use in sorted(found, key=lambda use: (use.line, use.owner, use.attribute))
        for facts in all_facts()
        if use.product in {"", facts.product} and not _has(facts, use) and use.attribute not in _BUILT_IN
    ]


def uses(source: str) -> set[tuple[str, str]]:
    """(owner, attribute) of everything that was recognised."""
    return {(use.owner, use.attribute) for use in _Reader(ast.parse(source)).uses()}


def _has(facts: Facts, use: Use) -> bool:
    if use.owner == MODULE:
        return use.attribute == "__version__" or use.attribute in facts.classes
    return use.attribute in facts.classes.get(use.owner, {})


class _Reader:
    """One source. Scopes are functions; names are looked up there, then in the file, then in NAMES."""

    def __init__(self, tree: ast.Module) -> None:
        self._tree = tree
        self._types: dict[tuple[str, str], str] = {}
        self._products: dict[int, str] = {}
        self._scopes: dict[int, str] = {}
        self._mark(tree, "", "")
        self._spread()
        for _ in range(3):  # assignments may depend on later ones, as those in other methods do
            self._infer()

    def uses(self) -> Iterator[Use]:
        """Every attribute whose owner is TensorRT's."""
        for node in ast.walk(self._tree):
            if isinstance(node, ast.Attribute) and (owner := self._type(node.value)):
                yield Use(node.lineno, owner, node.attr, self._products[id(node)])

    def _mark(self, node: ast.AST, product: str, scope: str) -> None:
        """Note each node's scope and the product its branch is for."""
        self._products[id(node)], self._scopes[id(node)] = product, scope
        branch = _product_of(node.test) if isinstance(node, (ast.If, ast.IfExp)) else ""
        inner = node.name if isinstance(node, ast.FunctionDef) else scope
        for name, value in ast.iter_fields(node):
            here = product
            if branch and name in {"body", "orelse"}:
                here = branch if name == "body" else {RTX: ENTERPRISE, ENTERPRISE: RTX}[branch]
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST):
                    self._mark(child, here, inner)

    def _spread(self) -> None:
        """A function that is called for one product only is for that product."""
        functions = {node.name: node for node in ast.walk(self._tree) if isinstance(node, ast.FunctionDef)}
        calls: dict[str, set[str]] = {}
        for node in ast.walk(self._tree):
            if isinstance(node, ast.Call):
                called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
                calls.setdefault(called, set()).add(self._products[id(node)])
        for name, products in calls.items():
            if name in functions and len(products) == 1 and (product := next(iter(products))):
                self._mark(functions[name], product, self._scopes[id(functions[name])])

    def _infer(self) -> None:
        for node in ast.walk(self._tree):
            if isinstance(node, (ast.Assign, ast.AnnAssign)) and node.value is not None:
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                for target in targets:
                    self._assign(target, node.value)
            elif isinstance(node, ast.arg) and node.annotation and ast.unparse(node.annotation) != "Any":
                self._types[self._scopes[id(node)], node.arg] = "ours"
            elif isinstance(node, ast.comprehension | ast.For) and isinstance(node.target, ast.Name):
                self._types.setdefault((self._scopes[id(node)], node.target.id), NAMES.get(node.target.id, "unknown"))

    def _assign(self, target: ast.expr, value: ast.expr) -> None:
        if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
            for one, its_value in zip(target.elts, value.elts, strict=False):
                self._note(one, self._type(its_value))
        else:
            self._note(target, self._type(value))

    def _note(self, target: ast.expr, found: str) -> None:
        if isinstance(target, ast.Name):
            self._types[self._scopes[id(target)], target.id] = found or self._types.get(
                (self._scopes[id(target)], target.id), "unknown"
            )
        elif isinstance(target, ast.Attribute) and found:
            self._types["", f".{target.attr}"] = found
        elif isinstance(target, ast.Tuple):
            for element in target.elts:
                self._note(element, "")

    def _type(self, node: ast.expr) -> str:
        """The TensorRT class of an expression, or ''."""
        found = self._guess(node)
        return "" if found in {"ours", "unknown"} else found

    def _guess(self, node: ast.expr) -> str:
        if isinstance(node, ast.Name):
            known = self._types.get((self._scopes[id(node)], node.id))
            return known if known and known != "unknown" else NAMES.get(node.id, "") if known is None else ""
        if isinstance(node, ast.Attribute):
            owner = self._type(node.value)
            if owner == MODULE:
                return f"{node.attr}" if any(node.attr in facts.classes for facts in all_facts()) else ""
            if owner:
                return ""  # a property, or an enum's value: its type is not known
            name = node.attr.lstrip("_")
            return self._types.get(("", f".{node.attr}")) or (NAMES.get(name, "") if _is_self(node.value) else "")
        if isinstance(node, ast.Call):
            return self._returned(node.func)
        return ""

    def _returned(self, function: ast.expr) -> str:
        if isinstance(function, ast.Attribute) and (owner := self._type(function.value)):
            if owner == MODULE:
                return function.attr
            returns = {facts.classes.get(owner, {}).get(function.attr, "") for facts in all_facts()} - {""}
            return next(iter(returns)) if len(returns) == 1 else ""
        if isinstance(function, ast.Name) and function.id == "load":
            return MODULE
        return ""


def _is_self(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id == "self"


def _product_of(test: ast.expr) -> str:
    """The product that `flavour == "tensorrt-rtx"` names."""
    if isinstance(test, ast.Compare) and isinstance(test.ops[0], ast.Eq):
        values = [side.value for side in (test.left, *test.comparators) if isinstance(side, ast.Constant)]
        return next((value for value in values if value in {RTX, ENTERPRISE}), "")
    return ""
