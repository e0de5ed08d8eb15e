"""Prints what fields vLLM's request classes have; run in a process of its own, as it imports vLLM.

Prints JSON: for each endpoint the fields of its classes, the fields of vLLM's types inside them,
names that are read from bodies by another name, and the OpenAPI document.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterator
from typing import Any

import typing_extensions
from pydantic import BaseModel

from dynamo_cli.engines.vllm.front import bodies, openapi
from tests.support.driver import tell


def parts(annotation: Any) -> Iterator[Any]:
    """Yield all types that an annotation consists of."""
    annotation = getattr(annotation, "__value__", annotation)
    yield annotation
    for argument in typing.get_args(annotation):
        yield from parts(argument)


def fields(one: Any) -> dict[str, Any] | None:
    """Return the fields of a class of vLLM; None if it has none or belongs to another library."""
    if not isinstance(one, type) or not one.__module__.startswith("vllm."):
        return None
    if issubclass(one, BaseModel):
        return {name: field.annotation for name, field in one.model_fields.items()}
    if dataclasses.is_dataclass(one):
        hints = typing.get_type_hints(one, include_extras=True)
        return {field.name: hints[field.name] for field in dataclasses.fields(one) if field.init}
    if typing_extensions.is_typeddict(one):
        return typing.get_type_hints(one, include_extras=True)
    return None


def main() -> None:
    known: dict[str, dict[str, Any]] = {}
    top: dict[str, dict[str, list[str]]] = {}
    aliases: list[str] = []
    requests = {endpoint: route.request for endpoint, route in bodies.ROUTES.items()}
    for endpoint, adapter in requests.items():
        classes = [one for one in parts(adapter._type) if fields(one) is not None]
        top[str(endpoint)] = {one.__name__: sorted(fields(one) or ()) for one in classes}
        waiting = list(classes)
        for one in classes:
            aliases += [name for name, field in one.model_fields.items() if field.alias]
        while waiting:
            for annotation in (fields(waiting.pop()) or {}).values():
                for one in parts(annotation):
                    inner = fields(one)
                    if inner is not None and one.__name__ not in known:
                        known[one.__name__] = inner
                        waiting.append(one)
    nested = {name: sorted(inner) for name, inner in known.items()}
    generated = openapi.document(requests)
    told = {"top": top, "nested": nested, "aliases": aliases, "document": generated}
    tell(told)


if __name__ == "__main__":
    main()
