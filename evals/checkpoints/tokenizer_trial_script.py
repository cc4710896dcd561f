"""Encodes texts in a process of its own: ``python SCRIPT TOKENIZER_JSON MEMORY < TEXTS``.

Run by :mod:`evals.checkpoints.tokenizer_trial`, and imports nothing of the suite. Reads a JSON list
of texts, uses at most ``MEMORY`` bytes of address space, and on failure prints the reason in a line
and exits with 1.
"""

import json
import resource
import sys
from contextlib import suppress

BATCH = 256
"""Texts that are encoded at a time."""


def main(file: str, memory: str) -> int:
    with suppress(ValueError, OSError):  # where the system has no such limit
        resource.setrlimit(resource.RLIMIT_AS, (int(memory), int(memory)))
    try:
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(file)
        tokenizer.no_truncation()
        tokenizer.no_padding()
        texts = json.load(sys.stdin.buffer)
        for start in range(0, len(texts), BATCH):
            tokenizer.encode_batch(texts[start : start + BATCH])
    except BaseException as error:  # a panic of the library is no Exception
        print(f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
