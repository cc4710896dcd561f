"""Limits, sides, padding and truncation of two tokenizers, and ``tokenizer.json`` as servers that
read that file alone see it.

transformers resets the truncation and the padding of ``tokenizer.json`` in every call, and its
classes rebuild some of the rest. The ``tokenizers`` library, and what is built on it, does neither.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import transformers
from tokenizers import Tokenizer

from compression_gates.evals.checkpoints.checkpoint import (
    CAUSAL,
    CLASSIFIER,
    EXTRACTIVE,
    SEQ2SEQ,
    Checkpoint,
)
from compression_gates.evals.checkpoints.encoding import (
    SHOWN,
    Ids,
    adds_around,
    encode,
    parting,
    reason,
)
from compression_gates.evals.checkpoints.files import json_object
from compression_gates.evals.checkpoints.findings import CheckpointComparison, Finding
from compression_gates.evals.checkpoints.tokens import first_of, stress_texts, text_difference
from compression_gates.evals.data.items import input_text
from compression_gates.evals.errors import EvalError, listed
from compression_gates.evals.foreign_text import on_one_line, snippet
from compression_gates.evals.guard import is_panic

if TYPE_CHECKING:
    from compression_gates.evals.checkpoints.compare import Sides

FILE, CONFIG = "tokenizer.json", "tokenizer_config.json"
_VOCABULARIES = ("*.model", "vocab.json", "vocab.txt", "merges.txt", "*.tiktoken")
ENDLESS = 1 << 30
"""A ``model_max_length`` from which on it is no limit."""
SAMPLE = 32
"""Texts of a data set that are tokenized as other readers of the file do."""
_RELATIVE = ("rope", "rotary", "alibi", "relative")
"""Parts of the names of settings that only models with relative positions have."""


def compare(sides: "Sides") -> CheckpointComparison:
    """Holds the settings of two tokenizers side by side, also as their files have them."""
    if sides.share_tokenizer:
        return CheckpointComparison()
    findings = [*_padding_token(sides), *_limit(sides), *_sides(sides)]
    findings += [*_flags(sides), *_other_files(sides)]
    files = [side.tokenizer / FILE for side in (sides.baseline, sides.candidate)]
    there = [file.is_file() for file in files]
    compared = ("limits and sides of the tokenizer",)
    if there == [True, False]:
        findings.append(Finding("no tokenizer.json", f"only the baseline has a {FILE}"))
    if not all(there):
        why = f"there is no {FILE} on " + ("either side" if not any(there) else "one side")
        return CheckpointComparison(tuple(findings), compared, {f"{FILE} for other readers": why})
    one, two = map(_read, files)
    findings += [*_truncation(sides, one, two), *_padding(one, two), *_ids(sides, one, two)]
    return CheckpointComparison(tuple(findings), (*compared, f"{FILE} for other readers"))


def _read(file: Path) -> Tokenizer:
    try:
        return Tokenizer.from_file(str(file))
    except Exception as error:
        raise EvalError(f"{file} does not load: {reason(error)}") from error


def _padding_token(sides: "Sides") -> list[Finding]:
    before, after = (side.pad_token for side in sides.tokenizers)
    if before == after or before is None:
        return []
    kind = "other padding" if after else "no padding token"
    text = f"the padding token is {before!r} for the baseline and {after!r} for the candidate"
    return [Finding(kind, text)]


def _limit(sides: "Sides") -> list[Finding]:
    """``model_max_length``: where plain use with ``truncation=True`` cuts."""
    before, after = (_length(side.model_max_length) for side in sides.tokenizers)
    context = sides.baseline.context or math.inf
    if before == after:
        return []
    shown = [("no limit" if math.isinf(n) else f"{n} tokens") for n in (before, after)]
    text = f"model_max_length is {shown[0]} for the baseline and {shown[1]} for the candidate"
    if after < min(before, context):
        return [Finding("truncation", f"{text}, which takes more")]
    if sides.baseline.kind != CAUSAL and before <= context < after:
        return [Finding("no truncation", f"{text}, which takes {context}")]
    return [Finding("other limit", text)]


def _flags(sides: "Sides") -> list[Finding]:
    """``add_bos_token`` and ``add_eos_token``, which only some readers act on."""
    told = [_settings(side) for side in (sides.baseline, sides.candidate)]
    ids = [encode(side, ["a"])[0] for side in sides.tokenizers]
    if ids[0] != ids[1] or isinstance(ids[0], str):
        return []  # the comparison of tokens tells
    findings = []
    for name, does in adds_around(sides.tokenizers[0]).items():
        asked = told[1].get(f"add_{name}_token")
        if isinstance(asked, bool) and asked not in (does, told[0].get(f"add_{name}_token")):
            text = (
                f"{CONFIG} says add_{name}_token = {str(asked).lower()} for the candidate, and the "
                f"{name} token is {'added' if does else 'not added'}: transformers "
                f"{transformers.__version__} goes by {FILE}, transformers 4 and vLLM by the flag"
            )
            findings.append(Finding("flag for other readers", text))
    return findings


def _settings(side: Checkpoint) -> Mapping[str, object]:
    file = side.tokenizer / CONFIG
    return json_object(file) if file.is_file() else {}


def _other_files(sides: "Sides") -> list[Finding]:
    """Vocabularies beside ``tokenizer.json``, which other readers may take in its place."""
    if not (sides.candidate.tokenizer / FILE).is_file():
        return []
    names = sorted(
        file.name
        for pattern in _VOCABULARIES
        for file in sides.candidate.tokenizer.glob(pattern)
        if file.is_file() and not _is_known(sides, file)
    )
    if not names:
        return []
    text = (
        f"the candidate's {on_one_line(listed(names))} is not the baseline's, and is not compared: "
        f"{FILE} is read in its place, by other readers perhaps not"
    )
    return [Finding("vocabulary for other readers", text)]


def _is_known(sides: "Sides", file: Path) -> bool:
    """Whether a file is that of the baseline, or holds what the baseline's tokenizer does."""
    usual = sides.baseline.tokenizer / file.name
    held = file.read_bytes()
    if usual.is_file() and usual.read_bytes().split() == held.split():
        return True
    if file.suffix == ".json":
        try:
            entries = json_object(file)
        except EvalError:
            return False
        known = sides.tokenizers[0].get_vocab()
        return bool(entries) and all(known.get(entry) == i for entry, i in entries.items())
    if file.name == "merges.txt" and sides.tokenizers[0].is_fast:
        model = json.loads(sides.tokenizers[0].backend_tokenizer.to_str())["model"]
        merges = [m if isinstance(m, str) else " ".join(m) for m in model.get("merges") or ()]
        lines = held.decode(errors="replace").splitlines()
        return [line for line in lines if line and not line.startswith("#version")] == merges
    return False


def _length(limit: float | None) -> float:
    return math.inf if limit is None or limit >= ENDLESS else limit


def _sides(sides: "Sides") -> list[Finding]:
    """On which side batches are padded and long texts are cut."""
    one, two = sides.tokenizers
    kind = sides.baseline.kind
    findings = []
    if one.padding_side != two.padding_side:
        # A decoder goes on from the last position; absolute positions count the padding.
        breaks = (
            two.padding_side == "right"
            if kind == CAUSAL
            else two.padding_side == "left" and not _is_relative(sides.baseline)
        )
        text = (
            f"the tokenizer pads on the {one.padding_side} for the baseline and on the "
            f"{two.padding_side} for the candidate"
        )
        findings.append(Finding("padding side" if breaks else "other padding", text))
    if one.truncation_side != two.truncation_side:
        text = (
            f"the tokenizer cuts on the {one.truncation_side} for the baseline and on the "
            f"{two.truncation_side} for the candidate"
        )
        breaks = kind in (CLASSIFIER, EXTRACTIVE, SEQ2SEQ)
        findings.append(Finding("truncation side" if breaks else "other truncation side", text))
    return findings


def _is_relative(checkpoint: Checkpoint) -> bool:
    """Whether a configuration says that only distances between positions count."""
    described = json_object((checkpoint.base or checkpoint).path / "config.json")
    return any(part in name for name in described for part in _RELATIVE if described[name])


def _truncation(sides: "Sides", one: Tokenizer, two: Tokenizer) -> list[Finding]:
    """Truncation in the file itself."""
    before, after = one.truncation, two.truncation
    if after is None or before == after:
        return []
    usual = math.inf if before is None else before["max_length"]
    context = sides.baseline.context or _length(sides.tokenizers[0].model_max_length)
    text = (
        f"{FILE} cuts {_shown(before, 'nothing')} for the baseline and "
        f"{_shown(after, 'nothing')} for the candidate; transformers ignores it, other readers "
        "of the file do not"
    )
    breaks = after["max_length"] < min(usual, context)
    return [Finding("truncation" if breaks else "other limit", text)]


def _shown(truncation: Mapping[str, object] | None, none: str) -> str:
    if truncation is None:
        return none
    return f"inputs to {truncation['max_length']} tokens on the {truncation['direction']}"


def _padding(one: Tokenizer, two: Tokenizer) -> list[Finding]:
    """Padding in the file itself."""
    before, after = one.padding, two.padding
    if after is None or before == after:
        return []
    if after["length"] and (before is None or before["length"] != after["length"]):
        text = (
            f"{FILE} pads every input to {after['length']} tokens for the candidate; transformers "
            "ignores it, other readers of the file do not"
        )
        return [Finding("fixed padding", text)]
    names = [name for name in after if before is None or before[name] != after[name]]
    shown = [{n: side[n] for n in names} if side else "none" for side in (before, after)]
    text = f"padding in {FILE} is {shown[0]} for the baseline and {shown[1]} for the candidate"
    return [Finding("other padding", text)]


def _ids(sides: "Sides", one: Tokenizer, two: Tokenizer) -> list[Finding]:
    """Tokens that the files alone give, and their text. The candidate's are right where they are
    those of the baseline's file, or those of transformers, which writes into a file what its
    classes add."""
    for tokenizer in (one, two):
        tokenizer.no_truncation()
        tokenizer.no_padding()
    texts = stress_texts(sides.tokenizers[0])
    for data in sides.data:
        texts |= {f"{data.name} {n}": input_text(i) for n, i in enumerate(data.items[:SAMPLE], 1)}
    tokens, decoded = {}, {}
    loaded = encode(sides.tokenizers[0], list(texts.values()))
    for (name, text), usual in zip(texts.items(), loaded, strict=True):
        before, after = _encoded(one, text), _encoded(two, text)
        if after not in (before, usual):
            tokens[name] = parting(sides.tokenizers, (before, after), snippet(text, SHOWN))
        elif isinstance(before, list):
            decoded[name] = _decoding(sides, one, two, before)
    other = "to readers other than transformers, on"
    found = [
        first_of(tokens, f"{FILE} gives other tokens {other}"),
        first_of(decoded, f"{FILE} gives other text for the same tokens {other}"),
    ]
    return [Finding("tokenizer.json", told) for told in found if told]


def _encoded(tokenizer: Tokenizer, text: str) -> Ids:
    try:
        return tokenizer.encode(text).ids
    except Exception as error:
        return reason(error)


def _decoding(sides: "Sides", one: Tokenizer, two: Tokenizer, ids: list[int]) -> str:
    """How the text of the same tokens differs, with special tokens and without; empty where the
    candidate's file gives that of the baseline's, or that of transformers, and where transformers
    shows the same difference, of which the comparison of tokens tells."""
    loaded = [
        side.backend_tokenizer if side.is_fast else file
        for side, file in zip(sides.tokenizers, (one, two), strict=True)
    ]
    for skip in (False, True):
        before, after, *usual = (_decoded(side, ids, skip) for side in (one, two, *loaded))
        if after not in (before, usual[0]) and after != usual[1]:
            return text_difference(before, after)
    return ""


def _decoded(tokenizer: Tokenizer, ids: list[int], skip: bool) -> str:
    try:
        return tokenizer.decode(ids, skip_special_tokens=skip)
    except BaseException as error:
        if not (isinstance(error, Exception) or is_panic(error)):
            raise
        return reason(error)
