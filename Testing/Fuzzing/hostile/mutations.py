"""Changes of valid bytes, texts and values: what a damaged disk, a bad program or an attacker makes of them."""

from __future__ import annotations

import random
import re
import struct
from collections.abc import Sequence
from typing import Any

NUMBERS = (
    *(
        "0",
        "-0",
        "-1",
        "1",
        "2",
        "3",
        "255",
        "256",
        "32767",
        "65535",
        "65536",
        "2147483647",
        "2147483648",
        "-2147483648",
    ),
    *("4294967295", "4294967296", "9223372036854775807", "9223372036854775808", "-9223372036854775809"),
    *("18446744073709551616", "1000000000000", "1e12", "1e308", "-1e308", "1e309", "1e-320", "1e-12", "0.5", "nan"),
    *("-nan", "NaN", "inf", "-inf", "Infinity", "1,5", "1_000", "0x10", "1e", "--1", "", " ", "٣", "one", "9" * 5000),
)
TEXTS = (
    *("", " ", "\0", "\n", "\r\n\r\n", "\t", '"', "'", "\\", "%s%n", "%d", "{}", "{0}", "$(touch pwned)", "`id`"),
    *(
        "../outside/bystander.raw",
        "../../../../../../etc/passwd",
        "/etc/passwd",
        "/dev/zero",
        "/dev/null",
        "/dev/stdin",
    ),
    *(
        "/proc/self/mem",
        ".",
        "..",
        "/",
        "CON",
        "a" * 300,
        "a" * 5000,
        "\x1b[31mred\x1b[0m",
        "\u202e",
        "\ud800",
        "é",
        "😀",
    ),
    *(
        "__import__('os').system('id')",
        "<script>",
        "None",
        "null",
        "true",
        "LIST",
        "SKIP",
        "LOCAL",
        "file:///etc/passwd",
    ),
)
INTEGERS = (
    0,
    1,
    -1,
    2,
    3,
    127,
    128,
    255,
    256,
    32767,
    32768,
    65535,
    65536,
    2**31 - 1,
    2**31,
    -(2**31),
    2**32 - 1,
    2**32,
)
LONG_INTEGERS = (*INTEGERS, 10**12, 2**53, 2**63 - 1, -(2**63), 2**62)
FLOATS = (0.0, -0.0, -1.0, 1.0, 0.5, 1e-12, 1e-45, 1e12, 3e38, -3e38, float("nan"), float("inf"), float("-inf"))
DOUBLES = (*FLOATS, 1e308, -1e308, 5e-324)
_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")
_WIDEST = 40  # levels that values are searched to


def some_bytes(generator: random.Random, most: int = 64) -> bytes:
    """Random bytes, or one byte again and again."""
    length = generator.randint(1, most)
    return generator.choice((generator.randbytes(length), bytes([generator.randrange(256)]) * length))


def changed_bytes(generator: random.Random, content: bytes, first: int = 0, last: int | None = None) -> bytes:
    """One to a few changes anywhere, or between two places: bits flipped, bytes replaced, removed, doubled, moved."""
    changed = bytearray(content)
    for _ in range(generator.choice((1, 1, 1, 2, 3, 8))):
        end = min(len(changed), len(changed) if last is None else last)
        if end <= first:
            break
        at = generator.randrange(first, end)
        what = generator.randrange(7)
        if what <= 1:
            changed[at] ^= 1 << generator.randrange(8)
        elif what == 2:
            changed[at] = generator.choice((0, 1, 0x7F, 0x80, 0xFF, generator.randrange(256)))
        elif what == 3:
            width = generator.choice((2, 4, 8))
            value = generator.choice(LONG_INTEGERS) & (256**width - 1)
            order = generator.choice(("little", "big"))
            changed[at : at + width] = value.to_bytes(width, order)
        elif what == 4:
            del changed[at : at + generator.randint(1, 16)]
        elif what == 5:
            changed[at:at] = some_bytes(generator)
        else:
            other = generator.randrange(first, end)
            changed[at : at + 8] = changed[other : other + 8]
    return bytes(changed)


def cut(generator: random.Random, content: bytes) -> bytes:
    """The beginning of the content, at least one byte and not all of them."""
    return content[: generator.randrange(1, len(content))]


def changed_text(generator: random.Random, text: str) -> str:
    """One to a few changes of a text: numbers replaced, lines removed, doubled or swapped, words inserted."""
    for _ in range(generator.choice((1, 1, 1, 2, 3))):
        lines = text.split("\n")
        at = generator.randrange(len(lines))
        what = generator.randrange(9)
        if what <= 2:
            text = _with_number(generator, text)
        elif what == 3:
            del lines[at]
            text = "\n".join(lines)
        elif what == 4:
            lines[at:at] = [lines[at]] * generator.choice((1, 1, 2, 50))
            text = "\n".join(lines)
        elif what == 5:
            other = generator.randrange(len(lines))
            lines[at], lines[other] = lines[other], lines[at]
            text = "\n".join(lines)
        elif what == 6:
            place = generator.randrange(len(text) + 1)
            text = text[:place] + generator.choice(TEXTS) + text[place:]
        elif what == 7:
            words = re.split(r"(\W+)", lines[at])
            words[generator.randrange(len(words))] = generator.choice((*TEXTS, *NUMBERS))
            lines[at] = "".join(words)
            text = "\n".join(lines)
        else:
            place = generator.randrange(len(text) + 1)
            text = text[:place]
    return text


def _with_number(generator: random.Random, text: str) -> str:
    found = list(_NUMBER.finditer(text))
    if not found:
        return text
    match = generator.choice(found)
    return text[: match.start()] + generator.choice(NUMBERS) + text[match.end() :]


def with_field(generator: random.Random, fields: Sequence[tuple[int, str]], order: str, content: bytes) -> bytes:
    """A binary header with the value of one field replaced. fields: (offset, struct code) of each."""
    changed = bytearray(content)
    offset, code = generator.choice(fields)
    struct.pack_into(order + code, changed, offset, extreme(generator, code))
    return bytes(changed)


def extreme(generator: random.Random, code: str) -> Any:
    """A value for a struct code."""
    if code in "fd":
        return generator.choice(FLOATS if code == "f" else DOUBLES)
    bits = 8 * struct.calcsize("<" + code)
    value = generator.choice((*LONG_INTEGERS, generator.getrandbits(bits))) & (2**bits - 1)
    return value - 2**bits if code.islower() and value >= 2 ** (bits - 1) else value


def odd_value(generator: random.Random, depth: int = 0) -> Any:
    """A value of JSON that nobody expects."""
    simple = (
        *(None, True, False, 0, -1, 1, 2**31, 2**63, 10**12, 10**400, 1e308, -1e308, 5e-324, float("nan")),
        *(float("inf"), float("-inf"), 0.5, [], {}, [[]], [None], {"": None}, [0] * 100, [1, 2], [1, 2, 3, 4]),
        *TEXTS,
        *NUMBERS[:30],
    )
    if depth < 2 and generator.random() < 0.1:
        return [odd_value(generator, depth + 1) for _ in range(generator.randint(1, 4))]
    return generator.choice(simple)


def changed_value(generator: random.Random, value: Any) -> Any:
    """A copy of a value of JSON with one to a few parts replaced, removed, doubled, renamed or swapped."""
    for _ in range(generator.choice((1, 1, 1, 2, 3))):
        places = list(_places(value))
        if not places or generator.random() < 0.02:
            return odd_value(generator)
        path = generator.choice(places)
        what = generator.randrange(8)
        if what <= 4:
            value = _edited(value, path, odd_value(generator))
        elif what == 5:
            value = _without(value, path)
        elif what == 6:
            value = _edited(value, path, _at(value, generator.choice(places)))
        else:
            value = _renamed(value, path, generator.choice((*TEXTS, "markups", "labels", "name", "config")))
    return value


def nested(generator: random.Random) -> str:
    """A text of JSON that is nested deeply, holds a number of many digits, or breaks off."""
    depth = generator.choice((50, 900, 5000, 100000))
    opening, closing = generator.choice((("[", "]"), ('{"a":', "}"), ('[{"markups":', "}]")))
    inner = generator.choice(("1", "", "null"))
    return generator.choice(
        (
            opening * depth + inner + closing * depth,
            opening * depth,
            '{"labels": ' + "9" * generator.choice((400, 4300, 5000, 10**5)) + "}",
            '{"name": 1e' + "9" * 30 + "}",
            "[" + "1," * 5000 + "1]",
            '"' + "\\u0000" * 20 + '"',
            '{"markups": "\\ud800"}',
        )
    )


def _places(value: Any, path: tuple = (), most: int = _WIDEST):
    if path:
        yield path
    if most and isinstance(value, dict):
        for key in value:
            yield from _places(value[key], (*path, key), most - 1)
    elif most and isinstance(value, list):
        for index in range(min(len(value), _WIDEST)):
            yield from _places(value[index], (*path, index), most - 1)


def _at(value: Any, path: tuple) -> Any:
    for key in path:
        value = value[key]
    return value


def _edited(value: Any, path: tuple, new: Any) -> Any:
    if not path:
        return new
    copied = value.copy()
    copied[path[0]] = _edited(copied[path[0]], path[1:], new)
    return copied


def _without(value: Any, path: tuple) -> Any:
    copied = value.copy()
    if len(path) == 1:
        del copied[path[0]]
    else:
        copied[path[0]] = _without(copied[path[0]], path[1:])
    return copied


def _renamed(value: Any, path: tuple, name: str) -> Any:
    copied = value.copy()
    if len(path) > 1:
        copied[path[0]] = _renamed(copied[path[0]], path[1:], name)
    elif isinstance(copied, dict):
        return {name if key == path[0] else key: entry for key, entry in copied.items()}
    return copied
