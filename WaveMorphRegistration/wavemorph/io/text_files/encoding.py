"""Read text files of any usual encoding, and JSON. Does not import torch."""

from __future__ import annotations

import codecs
import json
import re
from pathlib import Path
from typing import Any

from ...errors import InputError
from ..files import short_reason

_MARKS = (  # the longer marks first: that of UTF-32 begins like that of UTF-16
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1f]")  # not in any text; in most binary files


def read_text(path: Path, name: str) -> str:
    """The text of a file with its line ends as newlines: UTF-8, UTF-16 or UTF-32, else Windows-1252 or Latin-1.

    Parameters:
        path: the file.
        name: what messages call it.

    Raises:
        InputError: the file does not exist, cannot be read, or is not text.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise InputError(f'The {name} "{path}" does not exist; check the path.') from error
    except OSError as error:
        raise InputError(f'The {name} "{path}" cannot be read ({short_reason(error)}); give a text file.') from error
    text = _decoded(content)
    if text is None or _CONTROL.search(text):
        raise InputError(f'The {name} "{path.name}" cannot be read as text; save it as UTF-8.')
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_json(text: str, called: str) -> Any:
    """The content of a text in JSON. Raises InputError, also where it is nested too deeply or has half a character."""
    try:
        content = json.loads(text)
        if "\\ud" in text.lower():  # escapes of surrogates, of which one alone cannot be written or printed
            json.dumps(content, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        raise InputError(f"Line {error.lineno} of the {called} is no valid JSON ({error.msg}).") from error
    except RecursionError as error:
        raise InputError(f"The {called} is JSON that is nested too deeply; save it again.") from error
    except ValueError as error:  # a number of thousands of digits, or a surrogate
        raise InputError(f"The {called} is no valid JSON ({str(error)[:80]}); save it again.") from error
    return content


def _decoded(content: bytes) -> str | None:
    """The text, or None where its bytes contradict its byte order mark."""
    for mark, encoding in _MARKS:
        if content.startswith(mark):
            try:
                return content[len(mark) :].decode(encoding)
            except UnicodeDecodeError:
                return None
    for encoding in (*_unmarked_utf16(content), "utf-8", "cp1252"):
        try:
            return content.decode(encoding)
        except UnicodeDecodeError:
            continue
    return content.decode("latin-1")


def _unmarked_utf16(content: bytes) -> tuple[str, ...]:
    """UTF-16 without a byte order mark, where every other byte of the beginning is 0, as for Western text."""
    start = content[:64]
    if len(start) < 4 or len(content) % 2:
        return ()
    zeros = [sum(byte == 0 for byte in start[first::2]) / len(start[first::2]) for first in (0, 1)]
    if max(zeros) < 0.8 or min(zeros) > 0:
        return ()
    return ("utf-16-be",) if zeros[0] > zeros[1] else ("utf-16-le",)
