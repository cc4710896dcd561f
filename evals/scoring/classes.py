"""Class probabilities of texts."""

import numpy as np
import torch

from compression_gates.evals.data.items import DataSet
from compression_gates.evals.errors import EvalError
from compression_gates.evals.models.loading import Loaded
from compression_gates.evals.scoring.batches import in_batches, padded
from compression_gates.evals.scoring.protocols import ClassProtocol


@torch.inference_mode()
def classify(loaded: Loaded, data: DataSet, protocol: ClassProtocol) -> dict[str, np.ndarray]:
    """Return the log-probability of each class for each text.

    Texts that are longer than the model's input are truncated.

    Returns:
        ``log_probabilities`` ``(texts, classes)`` in float32.

    Raises:
        EvalError: the model has a single output, whose softmax is always 1.
    """
    limit = min(loaded.tokenizer.model_max_length, loaded.max_tokens)
    texts = [item.text for item in data.items]
    encoded = loaded.tokenizer(texts, truncation=True, max_length=limit).input_ids
    result: np.ndarray | None = None

    def run(batch: list[int]) -> None:
        nonlocal result
        inputs = padded(loaded, [encoded[index] for index in batch])
        logits = loaded.model(**inputs).logits.float()
        if logits.shape[1] < 2:
            raise EvalError(
                f"{loaded.checkpoint.label} has a single output and cannot be judged as a "
                "classifier; at least two classes are needed"
            )
        if result is None:
            result = np.empty((len(encoded), logits.shape[1]), np.float32)
        result[batch] = logits.log_softmax(-1).cpu().numpy()

    label = f"{loaded.checkpoint.label}: {data.name}"
    in_batches([len(ids) for ids in encoded], protocol.batch_tokens, run, label, "text")
    return {"log_probabilities": result}
