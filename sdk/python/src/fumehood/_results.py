"""Values that a program shows, and how a notebook may show them."""

from __future__ import annotations

import base64
import html
import json
from typing import Any, Iterator, Mapping, Optional

_SAFE_TYPES = frozenset(
    {"text/plain", "image/png", "image/jpeg", "image/gif", "image/webp", "image/bmp", "application/json"}
)
"""What a notebook shows without running anything that is in it."""

_FRAME_STYLE = "width:100%;height:20em;border:0;resize:vertical;background:white"


class Result(Mapping[str, Any]):
    """One value in one form or more: a mapping from MIME types to data. Texts are strings, images and other
    bytes are base64, JSON is itself.

    What comes from a guest is as hostile as its output: HTML and SVG can hold scripts. ``result[...]`` gives
    the data as it came. A notebook (``_repr_mimebundle_``) is given forms that cannot run anything in its page:
    HTML in a frame without rights, SVG as an image, and no scripts.
    """

    def __init__(self, data: Mapping[str, Any]) -> None:
        self._data = dict(data)

    def __getitem__(self, mime: str) -> Any:
        return self._data[mime]

    def __iter__(self) -> Iterator[str]:
        return iter(self._data)

    def __len__(self) -> int:
        return len(self._data)

    def __repr__(self) -> str:
        return self.text if self.text is not None else f"<Result {', '.join(sorted(self._data))}>"

    @property
    def text(self) -> Optional[str]:
        """Its plain text, which nearly every value has."""
        return self._string("text/plain")

    @property
    def html(self) -> Optional[str]:
        """Its HTML, as it came: hostile until shown otherwise."""
        return self._string("text/html")

    @property
    def markdown(self) -> Optional[str]:
        """Its Markdown, as it came."""
        return self._string("text/markdown")

    @property
    def svg(self) -> Optional[str]:
        """Its SVG, as it came: hostile until shown otherwise."""
        return self._string("image/svg+xml")

    @property
    def png(self) -> Optional[bytes]:
        """Its image as PNG."""
        return self.bytes("image/png")

    @property
    def jpeg(self) -> Optional[bytes]:
        """Its image as JPEG."""
        return self.bytes("image/jpeg")

    @property
    def json(self) -> Any:
        """Its JSON, decoded; ``None`` where it has none."""
        return self._data.get("application/json")

    def bytes(self, mime: str) -> Optional[bytes]:
        """The bytes of a form that is no text, decoded from base64."""
        data = self._string(mime)
        try:
            return None if data is None else base64.b64decode("".join(data.split()), validate=True)
        except ValueError:
            return None

    def _string(self, mime: str) -> Optional[str]:
        data = self._data.get(mime)
        return data if isinstance(data, str) else None

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        shown = {mime: data for mime, data in self._data.items() if mime in _SAFE_TYPES}
        if self.html is not None:
            inner = html.escape(self.html, quote=True)
            shown["text/html"] = f'<iframe sandbox="" style="{_FRAME_STYLE}" srcdoc="{inner}"></iframe>'
        elif self.svg is not None:
            image = base64.b64encode(self.svg.encode()).decode()
            shown["text/html"] = f'<img src="data:image/svg+xml;base64,{image}">'
        if not shown:
            shown["text/plain"] = repr(self)
        return {
            mime: data
            for mime, data in shown.items()
            if (not include or mime in include) and (not exclude or mime not in exclude)
        }


def approximate_size(bundle: Mapping[str, Any]) -> int:
    """Bytes that a bundle takes, about."""
    return sum(
        len(mime) + (len(data) if isinstance(data, str) else len(json.dumps(data)))
        for mime, data in bundle.items()
    )
