"""Contradictions between weight files: index and shards, tie flag and tensors, unread files.

They are found from the headers of the files, before any weights are loaded.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from os.path import normpath
from pathlib import Path
from typing import TYPE_CHECKING

from compression_gates.evals.checkpoints.checkpoint import Checkpoint
from compression_gates.evals.checkpoints.files import (
    INDEX,
    named_weights,
    unread_weights,
    weight_files,
    weight_map,
)
from compression_gates.evals.checkpoints.findings import CheckpointComparison, Finding
from compression_gates.evals.checkpoints.formats import PLAIN
from compression_gates.evals.checkpoints.tensors import StoredTensor, headers, same_bytes
from compression_gates.evals.errors import EvalError, kind_and_line, listed
from compression_gates.evals.foreign_text import on_one_line

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from compression_gates.evals.checkpoints.compare import Sides

_OUTPUT = re.compile(r"(^|\.)(lm_head|embed_out)\.weight$")
"""Names of output layers, which may be tied to the embedding."""
_EMBEDDING = re.compile(r"(^|\.)(encoder|decoder)\.embed_tokens\.weight$")
"""Names of the embeddings of an encoder and a decoder, which may be shared."""
Headers = Mapping[Path, Mapping[str, StoredTensor]]
"""Tensors by name, for each file."""


def compare(sides: "Sides") -> CheckpointComparison:
    """Find faults in the candidate's weight files.

    A fault that the baseline has too, with the same tensors and files, is only noted.
    """
    if not _is_folder(sides.candidate):
        return CheckpointComparison(
            not_compared={"files of weights": "they are not a folder's safetensors"}
        )
    try:
        known = set(_faults(sides.baseline, lambda: sides.baseline_config))
        faults = list(_faults(sides.candidate, lambda: sides.candidate_config))
        not_compared = _not_compared(sides)
    except (OSError, ValueError) as error:
        reason = on_one_line(kind_and_line(error))
        return CheckpointComparison(not_compared={"files of weights": reason})
    findings = [
        Finding("fault of both", f"{fault.text}, as for the baseline")
        if fault in known else fault
        for fault in faults
    ]  # fmt: skip
    return CheckpointComparison(tuple(findings), ("files of weights",), not_compared)


def _is_folder(checkpoint: Checkpoint) -> bool:
    """Return whether a checkpoint is neither a GGUF file nor an adapter."""
    return not checkpoint.file and checkpoint.base is None


def _faults(side: Checkpoint, config: Callable[[], "PretrainedConfig"]) -> Iterator[Finding]:
    if not _is_folder(side):
        return
    files = {file: headers(file) for file in weight_files(side.path)}
    yield from _duplicates(files)
    yield from _index_faults(side.path, files)
    if side.form == PLAIN:
        yield from _tying_faults(files, config)
    if unread := unread_weights(side.path):
        names = on_one_line(listed(unread))
        yield Finding(
            "unread weights", f"the folder also holds {names}, which transformers ignores"
        )


def _duplicates(files: Headers) -> Iterator[Finding]:
    seen: dict[str, Path] = {}
    for file, tensors in files.items():
        for name in tensors:
            if name in seen:
                text = f"{on_one_line(name)} is both in {seen[name].name} and in {file.name}"
                yield Finding("tensor in two files", text)
                return
            seen[name] = file


def _index_faults(path: Path, files: Headers) -> Iterator[Finding]:
    """Yield contradictions between the index of the weights and the shards."""
    index = path / (named_weights(path) or INDEX)
    if not index.name.endswith(".index.json") or not index.is_file():
        return
    try:
        indexed = weight_map(index)
    except EvalError as error:
        yield Finding("unread weights", f"{error}; transformers does not read it here")
        return
    read = {normpath(file.relative_to(path)) for file in files}
    if read.isdisjoint(map(normpath, indexed.values())):
        yield Finding("unread weights", f"{index.name} names files that are missing or not read")
        return
    stored = {name: file for file, names in files.items() for name in names}
    absent = sorted(indexed.keys() - stored.keys())
    unnamed = sorted(stored.keys() - indexed.keys())
    moved = sorted(
        name
        for name in indexed.keys() & stored.keys()
        if (path / indexed[name]).resolve() != stored[name].resolve()
    )
    for names, text in (
        (absent, f"{index.name} names {{}}, which no file holds"),
        (unnamed, f"{index.name} does not name {{}}, which the files hold"),
        (moved, f"{index.name} names another file than the one that holds {{}}"),
    ):
        if names:
            yield Finding("index of weights", text.format(on_one_line(listed(names))))


def _not_compared(sides: "Sides") -> dict[str, str]:
    """Return why tied weights cannot be compared; empty if they can."""
    if sides.candidate.form != PLAIN:
        return {}
    try:
        config = sides.candidate_config
    except EvalError as error:
        return {"tied weights": str(error)}
    unknown = [name for name, model_class in _classes(config) if model_class is None]
    if not unknown:
        return {}
    return {"tied weights": f"transformers has no class {on_one_line(listed(unknown))}"}


def _tying_faults(files: Headers, load: Callable[[], "PretrainedConfig"]) -> Iterator[Finding]:
    """Yield contradictions between ``tie_word_embeddings`` and the tensors."""
    try:
        config = load()
    except EvalError:  # reported by _not_compared
        return
    tied = bool(getattr(config, "tie_word_embeddings", False))
    stored = {name: tensor for tensors in files.values() for name, tensor in tensors.items()}
    for output, embedding in _tied_names(config):
        is_output = bool(_OUTPUT.search(output))
        if not (is_output or _EMBEDDING.search(output)) or embedding not in stored:
            continue
        if is_output and not tied and output not in stored:
            yield Finding(
                "untied weights",
                f"config.json sets tie_word_embeddings = false, but the file has no {output}",
            )
        elif tied and output in stored and not same_bytes(stored[output], stored[embedding]):
            yield Finding(
                "tied weights",
                f"config.json sets tie_word_embeddings = true, but {output} and {embedding} in "
                "the file differ; transformers uses both, other programs only one",
            )


def _tied_names(config: "PretrainedConfig") -> Iterator[tuple[str, str]]:
    """Yield pairs of a tensor and the embedding that it may be tied to."""
    for _, model_class in _classes(config):
        tied = getattr(model_class, "_tied_weights_keys", None)
        if isinstance(tied, dict):
            yield from tied.items()


def _classes(config: "PretrainedConfig") -> Iterator[tuple[str, type | None]]:
    """Yield the names of a model's classes and the classes, None if transformers lacks one."""
    import transformers

    for name in map(str, config.architectures or ()):
        yield name, getattr(transformers, name, None)
