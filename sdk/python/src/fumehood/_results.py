"""Displayed values, and how notebooks show them."""

from __future__ import annotations

import base64
import html
import json
from typing import Any, Iterator, Mapping, Optional

_SAFE_TYPES = frozenset(
    {"text/plain", "image/png", "image/jpeg", "image/gif", "image/webp", "image/bmp", "application/json"}
)
"""MIME types that a notebook shows without running any of their content."""

_FRAME_STYLE = "width:100%;height:20em;border:0;resize:vertical;background:white"


class Result(Mapping[str, Any]):
    """A displayed value in one or more formats: a mapping from MIME types to data. Text is a string, images and other
    binary data are base64, JSON is decoded.

    Values of a guest are untrusted: HTML and SVG can contain scripts. ``result[...]`` returns the data unchanged.
    Notebooks (``_repr_mimebundle_``) receive formats that cannot run anything in their page: HTML in a sandboxed
    frame, SVG as an image, and no scripts.
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
        """Plain text, which nearly every value has."""
        return self._string("text/plain")

    @property
    def html(self) -> Optional[str]:
        """HTML, unchanged and untrusted."""
        return self._string("text/html")

    @property
    def markdown(self) -> Optional[str]:
        """Markdown, unchanged."""
        return self._string("text/markdown")

    @property
    def svg(self) -> Optional[str]:
        """SVG, unchanged and untrusted."""
        return self._string("image/svg+xml")

    @property
    def png(self) -> Optional[bytes]:
        """PNG image."""
        return self.bytes("image/png")

    @property
    def jpeg(self) -> Optional[bytes]:
        """JPEG image."""
        return self.bytes("image/jpeg")

    @property
    def json(self) -> Any:
        """Decoded JSON; ``None`` if the value has none."""
        return self._data.get("application/json")

    def bytes(self, mime: str) -> Optional[bytes]:
        """Returns the bytes of a binary format, decoded from base64; ``None`` if the value does not have the format."""
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
    """Returns the approximate size of a value in bytes."""
    return sum(
        len(mime) + (len(data) if isinstance(data, str) else len(json.dumps(data))) for mime, data in bundle.items()
    )
