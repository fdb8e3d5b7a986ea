"""The values of the conformance table: what a request says, and what an answer must say. tests/conformance/README.md has
the words.
"""

import base64
import os
import re


class Mismatch(Exception):
    """An answer is not what the table says."""


def expand(value, variables):
    """A value of a request as proto3 JSON."""
    if isinstance(value, dict) and "$count" in value:
        return {str(number): "x" for number in range(1, value["$count"] + 1)}
    if isinstance(value, dict):
        return {key: expand(one, variables) for key, one in value.items()}
    if isinstance(value, list):
        return [expand(one, variables) for one in value]
    return expand_text(value, variables) if isinstance(value, str) else value


def expand_text(text, variables):
    word, _, rest = text.partition(":")
    if word == "$bytes":
        return base64.b64encode(str(expand_text(rest, variables)).encode(errors="surrogateescape")).decode()
    if word == "$hex":
        return base64.b64encode(bytes.fromhex(rest)).decode()
    if word == "$random":
        return base64.b64encode(os.urandom(int(rest))).decode()
    if word == "$repeat":
        times, _, rest = rest.partition(":")
        return str(expand_text(rest, variables)) * int(times)
    whole = re.fullmatch(r"\$\{([^}]+)\}", text)
    if whole:
        return variables[whole[1]]
    return re.sub(r"\$\{([^}]+)\}", lambda found: str(variables[found[1]]), text)


def match(expected, found, variables, place=""):
    """Compares an answer with what is expected of it, and takes what it captures."""
    if isinstance(expected, dict):
        match_object(expected, found, variables, place)
    elif isinstance(expected, list):
        demand(isinstance(found, list) and len(found) == len(expected), expected, found, place)
        for number, (one, other) in enumerate(zip(expected, found)):
            match(one, other, variables, f"{place}[{number}]")
    elif isinstance(expected, str):
        match_text(expected, found, variables, place)
    else:
        demand(expected == found and isinstance(expected, bool) == isinstance(found, bool), expected, found, place)


def match_object(expected, found, variables, place):
    for key, one in expected.items():
        if key == "$length":
            demand(len(found) == one, expected, found, place)
        elif key == "$each":
            for number, other in enumerate(found):
                match(one, other, variables, f"{place}[{number}]")
        elif key == "$some":
            demand(any(matches(one, other, variables) for other in found), expected, found, place)
        elif key == "$none":
            demand(not any(matches(one, other, variables) for other in found), expected, found, place)
        else:
            demand(isinstance(found, dict), expected, found, place)
            match(one, found.get(key), variables, f"{place}.{key}")


def matches(expected, found, variables):
    try:
        match(expected, found, variables)
    except Mismatch:
        return False
    return True


def match_text(expected, found, variables, place):
    word, _, rest = expected.partition(":")
    there = found not in (None, "", 0, "0", False, [], {})
    if word == "$bytes":
        demand(isinstance(found, str), expected, found, place)
        match_text(rest, base64.b64decode(found).decode(errors="surrogateescape"), variables, place)
    elif word == "$any":
        demand(there, expected, found, place)
    elif word == "$absent":
        demand(not there, expected, found, place)
    elif word == "$regex":
        demand(isinstance(found, str) and re.fullmatch(rest, found), expected, found, place)
    elif word == "$min":
        number = lambda text: float(str(text).removesuffix("s"))
        demand(there and number(found) >= number(rest), expected, found, place)
    elif word == "$capture":
        demand(there, expected, found, place)
        variables[rest] = found
    else:
        demand(found == expand_text(expected, variables), expected, found, place)


def demand(holds, expected, found, place):
    if not holds:
        raise Mismatch(f"{place.lstrip('.') or 'answer'}: expected {expected!r}, found {found!r}")
