"""Class probabilities of texts."""

import numpy as np
import torch

from compression_gates.evals.data.items import DataSet
from compression_gates.evals.errors import EvalError
from compression_gates.evals.models.loading import Loaded
from compression_gates.evals.scoring.batches import in_batches
from compression_gates.evals.scoring.protocols import ClassProtocol


@torch.inference_mode()
def classify(loaded: Loaded, data: DataSet, protocol: ClassProtocol) -> dict[str, np.ndarray]:
    """Log-probabilities ``(texts, classes)`` in float32; long texts are cut to the model's limit.

    Returns:
        ``log_probabilities``.

    Raises:
        EvalError: a model with a single output, whose softmax would always be 1.
    """
    tokenizer = loaded.tokenizer
    limit = min(tokenizer.model_max_length, loaded.max_tokens)
    texts = [item.text for item in data.items]
    encoded = tokenizer(texts, truncation=True, max_length=limit).input_ids
    result: np.ndarray | None = None

    def run(batch: list[int]) -> None:
        nonlocal result
        padded = tokenizer.pad(
            {"input_ids": [encoded[index] for index in batch]},
            padding_side="right",
            return_tensors="pt",
        ).to(loaded.device)
        logits = loaded.model(**padded).logits.float()
        if logits.shape[1] < 2:
            raise EvalError(f"{loaded.checkpoint.label} has one output: it is no classifier")
        if result is None:
            result = np.empty((len(encoded), logits.shape[1]), np.float32)
        result[batch] = logits.log_softmax(-1).cpu().numpy()

    label = f"{loaded.checkpoint.label}: {data.name}"
    in_batches([len(ids) for ids in encoded], protocol.batch_tokens, run, label, "text")
    return {"log_probabilities": result}
