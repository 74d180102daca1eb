"""Options of a model on the command line: `--model-options grid=7x7 width=96` becomes a mapping."""

from collections.abc import Mapping
from typing import Any

from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from anyres.training.model_options import options_as_text, parse_options

REGISTRY = ConstructorRegistry()
"""To be given to `tyro.cli`."""


@REGISTRY.primitive_rule
def _mapping(kind: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Mapping[str, Any]] | None:
    if kind.type_origin is not Mapping:
        return None
    return PrimitiveConstructorSpec(
        nargs="*",
        metavar="[KEY=VALUE [KEY=VALUE ...]]",
        instance_from_str=parse_options,
        is_instance=lambda given: isinstance(given, Mapping),
        str_from_instance=options_as_text,
    )
