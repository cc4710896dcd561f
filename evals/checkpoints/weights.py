"""Files of weights that say two things: index against shards, tying, files that are not read.

Everything is told from the headers of the files, before any weight is loaded.
"""

import re
from collections.abc import Iterator, Mapping
from os.path import normpath
from pathlib import Path
from typing import TYPE_CHECKING

from compression_gates.evals.checkpoints.checkpoint import Checkpoint
from compression_gates.evals.checkpoints.files import (
    INDEX,
    indexed,
    named_weights,
    unread_weights,
    weight_files,
)
from compression_gates.evals.checkpoints.findings import CheckpointComparison, Finding
from compression_gates.evals.checkpoints.formats import PLAIN
from compression_gates.evals.checkpoints.tensors import StoredTensor, headers, same_bytes
from compression_gates.evals.errors import EvalError, kind_and_line, listed
from compression_gates.evals.foreign_text import on_one_line
from compression_gates.evals.models.configurations import load_config

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from compression_gates.evals.checkpoints.compare import Sides

_OUTPUT = re.compile(r"(^|\.)(lm_head|embed_out)\.weight$")
"""Names of the output layer, which may be tied to the embedding."""
_EMBEDDING = re.compile(r"(^|\.)(encoder|decoder)\.embed_tokens\.weight$")
"""Names of the embeddings of an encoder and a decoder, which may share one."""


def compare(sides: "Sides") -> CheckpointComparison:
    """What is wrong with the candidate's files of weights. A fault that the baseline has as well,
    with the same tensors and files, is only noted."""
    if sides.candidate.file or sides.candidate.base is not None:
        return CheckpointComparison(
            not_compared={"files of weights": "they are not a folder's safetensors"}
        )
    try:
        known = set(_faults(sides.baseline, sides.trust_remote_code))
        faults = list(_faults(sides.candidate, sides.trust_remote_code))
        not_compared = _not_compared(sides.candidate, sides.trust_remote_code)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = on_one_line(kind_and_line(error))
        return CheckpointComparison(not_compared={"files of weights": reason})
    findings = [
        Finding("as the baseline", f"{fault.text}, as for the baseline")
        if fault in known else fault
        for fault in faults
    ]  # fmt: skip
    return CheckpointComparison(tuple(findings), ("files of weights",), not_compared)


def _faults(side: Checkpoint, trust_remote_code: bool) -> Iterator[Finding]:
    if side.file or side.base is not None:
        return
    files = {file: headers(file) for file in weight_files(side.path)}
    yield from _twice(files)
    yield from _index(side.path, files)
    if side.form == PLAIN:
        yield from _tying(side, files, trust_remote_code)
    if unread := unread_weights(side.path):
        names = on_one_line(listed(unread))
        yield Finding("unread weights", f"the folder also holds {names}, which nothing here reads")


def _twice(files: Mapping[Path, Mapping[str, StoredTensor]]) -> Iterator[Finding]:
    seen: dict[str, Path] = {}
    for file, tensors in files.items():
        for name in tensors:
            if name in seen:
                text = f"{on_one_line(name)} is in {seen[name].name} and in {file.name}"
                yield Finding("tensor in two files", f"{text}; which is meant?")
                return
            seen[name] = file


def _index(path: Path, files: Mapping[Path, Mapping[str, StoredTensor]]) -> Iterator[Finding]:
    """Where the index of the weights is not what the shards hold."""
    index = _index_file(path)
    if index is None:
        return
    try:
        told = indexed(index)
    except EvalError as error:
        yield Finding("unread weights", f"{error}; transformers does not read it here")
        return
    here = {normpath(file.relative_to(path)) for file in files}
    if here.isdisjoint(map(normpath, told.values())):
        yield Finding("unread weights", f"{index.name} names files that are not here or not read")
        return
    held = {name: str(file.relative_to(path)) for file, names in files.items() for name in names}
    absent = sorted(told.keys() - held.keys())
    unnamed = sorted(held.keys() - told.keys())
    moved = sorted(name for name in told.keys() & held.keys() if not _is(path, told, held, name))
    for names, text in (
        (absent, f"{index.name} names {{}}, which no file holds"),
        (unnamed, f"{index.name} does not name {{}}, which the files hold"),
        (moved, f"{index.name} names another file than the one that holds {{}}"),
    ):
        if names:
            yield Finding("index of weights", text.format(on_one_line(listed(names))))


def _is(path: Path, told: Mapping[str, str], held: Mapping[str, str], name: str) -> bool:
    return (path / told[name]).resolve() == (path / held[name]).resolve()


def _index_file(path: Path) -> Path | None:
    file = path / (named_weights(path) or INDEX)
    return file if file.name.endswith(".index.json") and file.is_file() else None


def _not_compared(side: Checkpoint, trust_remote_code: bool) -> dict[str, str]:
    """Why it cannot be told which weights a class ties; nothing where it can."""
    if side.form != PLAIN:
        return {}
    try:
        config = load_config(side, trust_remote_code)
    except EvalError as error:
        return {"tied weights": str(error)}
    unknown = [name for name, known in _classes(config) if known is None]
    if not unknown:
        return {}
    return {"tied weights": f"transformers has no class {on_one_line(listed(unknown))}"}


def _tying(
    side: Checkpoint,
    files: Mapping[Path, Mapping[str, StoredTensor]],
    trust_remote_code: bool,
) -> Iterator[Finding]:
    """Where ``tie_word_embeddings`` is not what the file holds."""
    try:
        config = load_config(side, trust_remote_code)
    except EvalError:  # told as not compared
        return
    tied = bool(getattr(config, "tie_word_embeddings", False))
    held = {name: tensor for tensors in files.values() for name, tensor in tensors.items()}
    for output, embedding in _tied_names(config):
        is_output = bool(_OUTPUT.search(output))
        if not (is_output or _EMBEDDING.search(output)) or embedding not in held:
            continue
        if is_output and not tied and output not in held:
            yield Finding(
                "untied weights",
                f"config.json says tie_word_embeddings = false, but the file has no {output}",
            )
        elif tied and output in held and not same_bytes(held[output], held[embedding]):
            yield Finding(
                "tied weights",
                f"config.json says tie_word_embeddings = true, but {output} and {embedding} in "
                "the file differ; transformers takes both, other readers only one",
            )


def _tied_names(config: "PretrainedConfig") -> Iterator[tuple[str, str]]:
    """Pairs of an output layer and the embedding that it may be tied to."""
    for _, known in _classes(config):
        tied = getattr(known, "_tied_weights_keys", None)
        if isinstance(tied, dict):
            yield from tied.items()


def _classes(config: "PretrainedConfig") -> Iterator[tuple[str, type | None]]:
    """Names of the classes of a model, and the classes; None for one that transformers lacks."""
    import transformers

    for name in map(str, config.architectures or ()):
        yield name, getattr(transformers, name, None)
