"""Pages of HTML that are one file: templates filled in, with the one stylesheet and all pictures inside."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from typing import Any


def render(
    room: str, template: str, pictures: Mapping[str, bytes], filters: Mapping[str, Callable], **values: Any
) -> bytes:
    """The page in UTF-8. The same values give the same bytes.

    Args:
        room: package whose folder "templates" holds the template, which extends this room's page.html.
        template: file name.
        pictures: name -> PNG; templates show them by `plot`, and expect the dark twin NAME-dark beside each.
        filters: name in the template -> function.
        values: name in the template -> value; one that is missing is an error.
    """
    import jinja2  # an extra: named by `require_extra`

    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader([jinja2.PackageLoader(each) for each in dict.fromkeys((room, "anyres.report"))]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= dict(filters)
    encoded = {name: base64.b64encode(content).decode("ascii") for name, content in pictures.items()}
    return environment.get_template(template).render(picture=encoded, **values).encode()
