"""Share of the vocabulary that occurs in a data set, and the length of its documents in tokens."""

import json

import numpy as np
from transformers import PreTrainedTokenizerBase

from compression_gates.evals.data.items import DataSet, whole_text
from compression_gates.evals.report.coverage import scripts_of


def token_coverage(tokenizer: PreTrainedTokenizerBase, data: DataSet) -> dict[str, np.ndarray]:
    """Count the tokens of a data set, expected answers included.

    Returns:
        ``used``, the number of distinct tokens that occur; ``vocabulary``, the number of tokens of
        the tokenizer; ``longest``, the number of tokens of the longest document; ``scripts``, the
        share of letters by script as JSON.
    """
    texts = [whole_text(item) for item in data.items]
    rows = tokenizer(texts, verbose=False).input_ids
    counts = {
        "used": len(set().union(*rows)),
        "vocabulary": len(tokenizer),
        "longest": max(map(len, rows)),
        "scripts": json.dumps(scripts_of(texts)),
    }
    return {name: np.array(count) for name, count in counts.items()}
