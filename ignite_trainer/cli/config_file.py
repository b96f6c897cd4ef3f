"""The options of a job as a file: YAML of a user's, and the part of a run's config.yaml that says how it was made."""

from __future__ import annotations

import dataclasses
import difflib
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from .mistakes import UserMistake

__all__ = ["job_section", "read_config", "read_yaml"]

_FOUND = ("classes", "input_shape", "input_dtype", "samples")  # what is there besides the options: from the data
_NOT_KEPT = ("folder",)  # a run's values lie in its folder, and another run of them needs another


def read_config(path: Path, options: type) -> tuple[dict[str, Any], dict[str, str]]:
    """The options in a YAML file, and the origins of those that say them.

    The file is ``name: value``; or the config.yaml of a run, whose options stand below ``job`` as ``name: {value: …,
    from: …}``. A hyphen in a name is as good as an underscore.

    Args:
        path: the file.
        options: the dataclass, whose fields are the names and their types.

    Raises:
        UserMistake: no such file, no YAML, an unknown name, or a value of the wrong type.
    """
    document = read_yaml(path)
    section = document.get("job", document)
    if not isinstance(section, dict):
        raise UserMistake(f"{path}: job is a mapping of names and values; got {section!r}")
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    hints = get_type_hints(options)
    for key, entry in section.items():
        name = str(key).replace("-", "_")
        if name in _FOUND:
            continue
        if name not in hints:
            nearest = difflib.get_close_matches(name, hints, n=1, cutoff=0.5)
            way_out = f"did you mean {nearest[0]}?" if nearest else f"there are {', '.join(hints)}"
            raise UserMistake(f"{path} has the unknown key {key!r}; {way_out}")
        is_pair = isinstance(entry, dict) and entry.keys() == {"value", "from"}
        if is_pair:
            origins[name] = str(entry["from"])
        values[name] = _typed(entry["value"] if is_pair else entry, hints[name], f"{path}: {key}")
    return values, origins


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping that a YAML file holds.

    Raises:
        UserMistake: it cannot be read, is no YAML, or no mapping; in one line, with the place.
    """
    import yaml

    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserMistake(f"{path} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, ValueError) as error:  # ValueError: no UTF-8, or a date that is none
        mark = getattr(error, "problem_mark", None)
        place = "" if mark is None else f", line {mark.line + 1}, column {mark.column + 1}"
        problem = getattr(error, "problem", None) or " ".join(str(error).split())
        raise UserMistake(f"{path}{place} is no YAML: {problem}") from error
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise UserMistake(f"{path} holds names and values, one `name: value` a line; got a {type(document).__name__}")
    return document


def job_section(options: Any, origins: Mapping[str, str], found: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The options as a run's config.yaml has them, with what was found from the data: the opposite of `read_config`.

    Args:
        options: an instance of the dataclass.
        origins: name → where its value came from, where that is not the default.
        found: ``classes``, ``input_shape``, ``input_dtype`` and ``samples``.
    """
    values = {name: value for name, value in dataclasses.asdict(options).items() if name not in _NOT_KEPT}
    section = {
        name: {"value": str(value) if isinstance(value, Path) else value, "from": origins.get(name, "default")}
        for name, value in values.items()
    }
    return section | {name: {"value": value, "from": "data"} for name, value in found.items()}


def _typed(value: Any, hint: Any, where: str) -> Any:
    """The value as its option has it; YAML reads 1e-3 as text, and 1 as no float."""
    is_union = get_origin(hint) in (Union, types.UnionType)
    kinds = get_args(hint) if is_union else (hint,)
    if value is None and type(None) in kinds:
        return None
    kind = next(kind for kind in kinds if kind is not type(None))
    if get_origin(kind) is Literal:
        if value in get_args(kind):
            return value
        expected = f"one of {', '.join(get_args(kind))}"
    else:
        if isinstance(value, kind) and not (isinstance(value, bool) and kind is not bool):
            return value
        if kind is Path and isinstance(value, str):
            return Path(value)
        if kind is float and isinstance(value, (int, str)) and not isinstance(value, bool):
            try:
                return float(value)
            except ValueError:
                pass
            except OverflowError as error:
                raise UserMistake(
                    f"{where} is a number that a float holds; got one of {len(str(value))} digits"
                ) from error
        names = {str: "text", int: "a whole number", float: "a number", bool: "true or false", Path: "a path"}
        expected = names[kind]
    expected += " or null" if type(None) in kinds else ""
    raise UserMistake(f"{where} is {expected}; got {value!r}")
