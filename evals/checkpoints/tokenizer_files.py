"""Comparison of the settings of two tokenizers and of ``tokenizer.json`` as other programs read it.

transformers resets the truncation and the padding of ``tokenizer.json`` in each call, and its
classes rebuild other parts of the file. Programs built on the ``tokenizers`` library use the file
as it is.
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
    adds_special_tokens,
    both_sides,
    decode,
    encode,
    reason,
    result_or_reason,
    text_difference,
    token_difference,
)
from compression_gates.evals.checkpoints.files import json_object
from compression_gates.evals.checkpoints.findings import CheckpointComparison, Finding
from compression_gates.evals.checkpoints.tokens import stress_texts, summarized
from compression_gates.evals.data.items import input_text
from compression_gates.evals.errors import EvalError, listed
from compression_gates.evals.foreign_text import on_one_line, snippet

if TYPE_CHECKING:
    from compression_gates.evals.checkpoints.compare import Sides

FILE, CONFIG = "tokenizer.json", "tokenizer_config.json"
_VOCABULARIES = ("*.model", "vocab.json", "vocab.txt", "merges.txt", "*.tiktoken")
UNLIMITED = 1 << 30
"""Values of ``model_max_length`` from here on mean that there is no limit."""
SAMPLE = 32
"""Texts per data set that are encoded with ``tokenizer.json`` alone."""
_RELATIVE = ("rope", "rotary", "alibi", "relative")
"""Parts of setting names that only models with relative positions have."""


def compare(sides: "Sides") -> CheckpointComparison:
    """Compare the settings of two tokenizers, as transformers and other programs read them."""
    if sides.share_tokenizer:
        return CheckpointComparison()
    findings = [*_padding_token(sides), *_limit(sides), *_sides(sides)]
    findings += [*_flags(sides), *_other_files(sides)]
    compared = ("limits and sides of the tokenizer",)
    files = [side.tokenizer / FILE for side in (sides.baseline, sides.candidate)]
    present = [file.is_file() for file in files]
    if present == [True, False]:
        findings.append(Finding("no tokenizer.json", f"only the baseline has a {FILE}"))
    if not all(present):
        why = f"{'one side has' if any(present) else 'both sides have'} no {FILE}"
        return CheckpointComparison(tuple(findings), compared, {f"{FILE} for other readers": why})
    one, two = map(_read, files)
    findings += [*_truncation(sides, one, two), *_padding(one, two), *_texts(sides, one, two)]
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
    return [Finding(kind, f"the padding token is {both_sides(repr(before), repr(after))}")]


def _limit(sides: "Sides") -> list[Finding]:
    """Compare ``model_max_length``, at which calls with ``truncation=True`` truncate."""
    before, after = (_length(side.model_max_length) for side in sides.tokenizers)
    if before == after:
        return []
    context = sides.baseline.context or math.inf
    shown = [("no limit" if math.isinf(n) else f"{n} tokens") for n in (before, after)]
    text = f"model_max_length is {both_sides(*shown)}"
    if after < min(before, context):
        return [Finding("truncation", f"{text}, whose model accepts longer inputs")]
    if sides.baseline.kind != CAUSAL and before <= context < after:
        return [Finding("no truncation", f"{text}, whose model accepts {context}")]
    return [Finding("other limit", text)]


def _length(limit: float | None) -> float:
    return math.inf if limit is None or limit >= UNLIMITED else limit


def _flags(sides: "Sides") -> list[Finding]:
    """Compare ``add_bos_token`` and ``add_eos_token``, which only some programs read."""
    ids = [encode(side, ["a"])[0] for side in sides.tokenizers]
    if ids[0] != ids[1] or isinstance(ids[0], str):
        return []  # reported by the comparison of tokens
    before, after = (_config(side) for side in (sides.baseline, sides.candidate))
    findings = []
    for name, adds in adds_special_tokens(sides.tokenizers[0]).items():
        flag = after.get(f"add_{name}_token")
        if isinstance(flag, bool) and flag not in (adds, before.get(f"add_{name}_token")):
            text = (
                f"{CONFIG} sets add_{name}_token = {str(flag).lower()} for the candidate, but the "
                f"{name} token is {'added' if adds else 'not added'}: transformers "
                f"{transformers.__version__} follows {FILE}, transformers 4 and vLLM the flag"
            )
            findings.append(Finding("flag for other readers", text))
    return findings


def _config(side: Checkpoint) -> Mapping[str, object]:
    file = side.tokenizer / CONFIG
    return json_object(file) if file.is_file() else {}


def _other_files(sides: "Sides") -> list[Finding]:
    """Find vocabularies beside ``tokenizer.json`` that other programs may read instead of it."""
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
        f"the candidate's {on_one_line(listed(names))} differs from the baseline's and is not "
        f"compared: transformers reads {FILE} instead, but other programs may not"
    )
    return [Finding("vocabulary for other readers", text)]


def _is_known(sides: "Sides", file: Path) -> bool:
    """Return whether a file is equal to the baseline's, or has the content of its tokenizer."""
    usual = sides.baseline.tokenizer / file.name
    content = file.read_bytes()
    if usual.is_file() and usual.read_bytes().split() == content.split():
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
        lines = content.decode(errors="replace").splitlines()
        return [line for line in lines if line and not line.startswith("#version")] == merges
    return False


def _sides(sides: "Sides") -> list[Finding]:
    """Compare the sides on which batches are padded and long texts are truncated."""
    one, two = sides.tokenizers
    kind = sides.baseline.kind
    findings = []
    if one.padding_side != two.padding_side:
        # A decoder continues from the last position; absolute positions count the padding.
        breaks = (
            two.padding_side == "right"
            if kind == CAUSAL
            else two.padding_side == "left" and not _has_relative_positions(sides.baseline)
        )
        text = f"the tokenizer pads on the {both_sides(one.padding_side, two.padding_side)}"
        findings.append(Finding("padding side" if breaks else "other padding", text))
    if one.truncation_side != two.truncation_side:
        breaks = kind in (CLASSIFIER, EXTRACTIVE, SEQ2SEQ)
        shown = both_sides(one.truncation_side, two.truncation_side)
        text = f"the tokenizer truncates on the {shown}"
        findings.append(Finding("truncation side" if breaks else "other truncation side", text))
    return findings


def _has_relative_positions(checkpoint: Checkpoint) -> bool:
    """Return whether a model uses only the distances between positions."""
    config = json_object((checkpoint.base or checkpoint).path / "config.json")
    return any(part in name for name in config for part in _RELATIVE if config[name])


def _truncation(sides: "Sides", one: Tokenizer, two: Tokenizer) -> list[Finding]:
    """Compare the truncation that the files set."""
    before, after = one.truncation, two.truncation
    if after is None or before == after:
        return []
    usual = math.inf if before is None else before["max_length"]
    context = sides.baseline.context or _length(sides.tokenizers[0].model_max_length)
    shown = [
        f"inputs to {side['max_length']} tokens on the {side['direction']}" if side else "nothing"
        for side in (before, after)
    ]
    text = (
        f"{FILE} truncates {both_sides(*shown)}; transformers ignores this setting, other programs "
        "do not"
    )
    breaks = after["max_length"] < min(usual, context)
    return [Finding("truncation" if breaks else "other limit", text)]


def _padding(one: Tokenizer, two: Tokenizer) -> list[Finding]:
    """Compare the padding that the files set."""
    before, after = one.padding, two.padding
    if after is None or before == after:
        return []
    if after["length"] and (before is None or before["length"] != after["length"]):
        text = (
            f"{FILE} pads each input to {after['length']} tokens for the candidate; transformers "
            "ignores this setting, other programs do not"
        )
        return [Finding("fixed padding", text)]
    names = [name for name in after if before is None or before[name] != after[name]]
    shown = [{n: side[n] for n in names} if side else "none" for side in (before, after)]
    return [Finding("other padding", f"padding in {FILE} is {both_sides(*shown)}")]


def _texts(sides: "Sides", one: Tokenizer, two: Tokenizer) -> list[Finding]:
    """Compare how the files alone encode and decode texts.

    The candidate's file may give the result of the baseline's file or that of transformers, which
    saves the parts that its classes rebuild.
    """
    for tokenizer in (one, two):
        tokenizer.no_truncation()
        tokenizer.no_padding()
    texts = stress_texts(sides.tokenizers[0])
    for data in sides.data:
        texts |= {f"{data.name} {n}": input_text(i) for n, i in enumerate(data.items[:SAMPLE], 1)}
    encoded, decoded = {}, {}
    loaded = encode(sides.tokenizers[0], list(texts.values()))
    for (name, text), usual in zip(texts.items(), loaded, strict=True):
        before, after = (
            result_or_reason(lambda side=side, text=text: side.encode(text).ids)
            for side in (one, two)
        )
        if after not in (before, usual):
            source = snippet(text, SHOWN)
            encoded[name] = token_difference(sides.tokenizers, (before, after), source)
        elif isinstance(before, list):
            decoded[name] = _decoding_difference(sides, one, two, before)
    readers = "to readers other than transformers, on"
    differences = [
        summarized(encoded, f"{FILE} gives different tokens {readers}"),
        summarized(decoded, f"{FILE} gives different text for the same tokens {readers}"),
    ]
    return [Finding("tokenizer.json", difference) for difference in differences if difference]


def _decoding_difference(sides: "Sides", one: Tokenizer, two: Tokenizer, ids: list[int]) -> str:
    """Describe how the text of the same tokens differs, with or without special tokens.

    Empty if the candidate's file gives the text of the baseline's file or of the loaded baseline,
    or that of the loaded candidate, whose differences the comparison of tokens reports.
    """
    loaded = [
        side.backend_tokenizer if side.is_fast else file
        for side, file in zip(sides.tokenizers, (one, two), strict=True)
    ]
    for skip in (False, True):
        before, after, *usual = (decode(side, ids, skip) for side in (one, two, *loaded))
        if after not in (before, *usual):
            return text_difference(before, after)
    return ""
