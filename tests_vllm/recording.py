"""What the plug-in relies on in vLLM's classes, as a record of a release."""

from __future__ import annotations

import ast
import importlib
import inspect
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec

from balanceroute.vllm_plugin import contract

RECORD = Path(__file__).parents[1] / "tests" / "vllm_plugin" / "recorded.json"
STRUCTS = ("EngineCoreRequest", "EngineCoreOutput", "EngineCoreOutputs")


def record_installed() -> dict[str, Any]:
    """Return the record of the vLLM that is installed here."""
    core_client = importlib.import_module("vllm.v1.engine.core_client")
    engine = importlib.import_module("vllm.v1.engine")
    client = getattr(core_client, contract.CLIENT)
    return {
        "release": contract.release_of(importlib.import_module("vllm").__version__),
        "methods": {name: _facts(name, getattr(client, name)) for name in contract.METHODS},
        "fields": {name: list(getattr(engine, name).__struct_fields__) for name in STRUCTS},
    }


def _facts(name: str, method: Any) -> dict[str, Any]:
    wanted = contract.NAMES_USED.get(name, ())
    return {
        "parameters": list(inspect.signature(method).parameters),
        "is_coroutine": inspect.iscoroutinefunction(method),
        "uses": sorted(word for word in wanted if word in method.__code__.co_names),
    }


def record_source(version: str, core_client: str, engine: str) -> dict[str, Any]:
    """Return the record of a release from the source of its two modules, without running them."""
    classes = _classes(core_client)
    methods: dict[str, Any] = {}
    for name in _line(classes, contract.CLIENT):
        for item in classes[name].body:
            if isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef):
                methods.setdefault(item.name, item)
    fields = {
        name: [
            item.target.id
            for item in found.body
            if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)
        ]
        for name, found in _classes(engine).items()
        if name in STRUCTS
    }
    return {
        "release": contract.release_of(version),
        "methods": {
            name: _facts_of_source(name, methods[name])
            for name in contract.METHODS
            if name in methods
        },
        "fields": fields,
    }


def _classes(source: str) -> dict[str, ast.ClassDef]:
    return {item.name: item for item in ast.parse(source).body if isinstance(item, ast.ClassDef)}


def _line(classes: dict[str, ast.ClassDef], name: str) -> list[str]:
    """Return a class and those that it inherits from in its module, nearest first."""
    if name not in classes:
        return []
    bases = [base.id for base in classes[name].bases if isinstance(base, ast.Name)]
    return [name, *(above for base in bases for above in _line(classes, base))]


def _facts_of_source(name: str, method: ast.FunctionDef | ast.AsyncFunctionDef) -> dict[str, Any]:
    names = {node.attr for node in ast.walk(method) if isinstance(node, ast.Attribute)}
    given = method.args
    return {
        "parameters": [one.arg for one in (*given.posonlyargs, *given.args, *given.kwonlyargs)],
        "is_coroutine": isinstance(method, ast.AsyncFunctionDef),
        "uses": sorted(word for word in contract.NAMES_USED.get(name, ()) if word in names),
    }


def modules_of(record: Any) -> tuple[ModuleType, ModuleType]:
    """Return modules that look as vLLM's did when they were recorded."""
    core_client, engine = ModuleType("core_client"), ModuleType("engine")
    methods = {name: _function(name, facts) for name, facts in record["methods"].items()}
    setattr(core_client, contract.CLIENT, type(contract.CLIENT, (), methods))
    for name, fields in record["fields"].items():
        setattr(engine, name, msgspec.defstruct(name, [(field, Any, None) for field in fields]))
    return core_client, engine


def _function(name: str, facts: Any) -> Any:
    body = "; ".join(f"self.{word}" for word in facts["uses"]) or "pass"
    kind = "async def" if facts["is_coroutine"] else "def"
    scope: dict[str, Any] = {}
    exec(f"{kind} {name}({', '.join(facts['parameters'])}): {body}", scope)  # noqa: S102
    return scope[name]
