"""Changes of valid inputs, all drawn from a seeded generator."""

import copy
import json
from random import Random

VALUES = (
    None, True, False, -1, 0, 1, 2, 3.5, -0.0, 1e308, float("nan"), float("inf"), 2**31, 2**63,
    10**30, "", "x", "0", "-1", "nan", "\ud800", "\x1b[31m\n::error::", "../x", "/dev/zero",
    "x" * 9999, [], {}, [None], [[]], {"": None}, {"x": [1]}, [0] * 99, [["x"] * 3] * 3,
)  # fmt: skip


def mutated_bytes(rng: Random, content: bytes) -> bytes:
    """``content`` with one to three damages: flipped, lost, added, moved, zeroed or cut."""
    found = bytearray(content)
    for _ in range(rng.randint(1, 3)):
        place = rng.randrange(len(found) + 1)
        length = min(rng.choice((1, 2, 8, 64, 4096)), len(found) - place)
        part = slice(place, place + length)
        match rng.randrange(7):
            case 0 if place < len(found):
                found[place] ^= 1 << rng.randrange(8)
            case 1 if place < len(found):
                found[place] = rng.choice(b'\x00\xff{}[]"\\\n,:0-9' + bytes([rng.randrange(256)]))
            case 2:
                del found[part]
            case 3:
                found[place:place] = rng.randbytes(length)
            case 4:
                found[part] = bytes(length)
            case 5:
                other = rng.randrange(len(found) + 1)
                found[part] = found[other : other + length]
            case _:
                del found[place:]
    return bytes(found)


def mutated_json(rng: Random, value: object) -> object:
    """``value`` with one to three changes: parts replaced, lost, renamed, swapped or nested."""
    root = [copy.deepcopy(value)]
    for _ in range(rng.randint(1, 3)):
        places = list(_places(root))
        holder, key = rng.choice(places)
        match rng.randrange(7):
            case 0:
                other, place = rng.choice(places)
                holder[key] = copy.deepcopy(other[place])
            case 1 if holder is not root:
                del holder[key]
            case 2 if isinstance(holder, dict):
                holder[rng.choice((f"{key}_", "", "x", "\ud800", "\x1b"))] = holder.pop(key)
            case 3:
                for _ in range(rng.choice((1, 50))):
                    holder[key] = [holder[key]] if rng.random() < 0.5 else {"x": holder[key]}
            case _:
                holder[key] = copy.deepcopy(rng.choice(VALUES))
    return root[0]


def nearby_json(rng: Random, value: object) -> object:
    """``value`` with one value replaced by another of its type, as a writer may have meant it."""
    root = [copy.deepcopy(value)]
    places = [(h, k) for h, k in _places(root) if isinstance(h[k], int | float | str)]
    if not places:
        return root[0]
    holder, key = rng.choice(places)
    match holder[key]:
        case bool(old):
            holder[key] = not old
        case int(old):
            holder[key] = rng.choice((old + 1, old - 1, 2 * old, -old, 0))
        case float(old):
            holder[key] = old * rng.choice((1.0000001, 0.5, 2, -1, 0))
        case str(old):
            holder[key] = rng.choice((old.upper(), old + " ", old[::-1], "other"))
    return root[0]


def mutated_json_file(rng: Random, content: bytes) -> bytes:
    """A JSON file with other values, or with damaged bytes."""
    if (kind := rng.random()) < 0.25:
        return mutated_bytes(rng, content)
    mutated = nearby_json if kind < 0.5 else mutated_json
    return json.dumps(mutated(rng, json.loads(content))).encode()


def mutated_json_lines(rng: Random, content: bytes) -> bytes:
    """A file of JSON lines of which one has other values, or with damaged bytes."""
    if rng.random() < 0.25:
        return mutated_bytes(rng, content)
    lines = content.splitlines()
    place = rng.randrange(len(lines))
    match rng.randrange(6):
        case 0:
            del lines[place]
        case 1:
            lines.insert(place, lines[rng.randrange(len(lines))])
        case _:
            lines[place] = json.dumps(mutated_json(rng, json.loads(lines[place]))).encode()
    return b"\n".join(lines) + b"\n"


def _places(value: object):
    """Every holder and key in nested lists and dictionaries."""
    waiting = [value]
    while waiting:
        holder = waiting.pop()
        keys = list(holder) if isinstance(holder, dict) else range(len(holder))
        for key in keys:
            yield holder, key
            if isinstance(holder[key], dict | list):
                waiting.append(holder[key])
