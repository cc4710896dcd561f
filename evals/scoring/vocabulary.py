"""Which of the vocabulary a data set holds, and how long its documents are, in tokens."""

import json

import numpy as np
from transformers import PreTrainedTokenizerBase

from compression_gates.evals.data.items import DataSet, whole_text
from compression_gates.evals.report.coverage import scripts_of


def tokens_of(tokenizer: PreTrainedTokenizerBase, data: DataSet) -> dict[str, np.ndarray]:
    """What a data set, answers included, is in tokens of a model.

    Returns:
        ``used`` and ``vocabulary``, tokens that occur and those that there are; ``longest``, tokens
        of the longest document; ``scripts``, shares of letters by script as JSON.
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
