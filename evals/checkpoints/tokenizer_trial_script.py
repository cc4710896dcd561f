"""Encode texts in a separate process: ``python SCRIPT TOKENIZER_JSON MEMORY < TEXTS``.

:mod:`evals.checkpoints.tokenizer_trial` runs this file, which imports nothing of the suite. It
reads a JSON list of texts and uses at most ``MEMORY`` bytes of address space. On failure it prints
the reason in one line and exits with status 1.
"""

import json
import resource
import sys
from contextlib import suppress

BATCH = 256
"""Number of texts that are encoded at once."""


def main(file: str, memory: str) -> int:
    with suppress(ValueError, OSError):  # not every system has this limit
        resource.setrlimit(resource.RLIMIT_AS, (int(memory), int(memory)))
    try:
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(file)
        tokenizer.no_truncation()
        tokenizer.no_padding()
        texts = json.load(sys.stdin.buffer)
        for start in range(0, len(texts), BATCH):
            tokenizer.encode_batch(texts[start : start + BATCH])
    except BaseException as error:  # a panic of the library is not an Exception
        print(f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
