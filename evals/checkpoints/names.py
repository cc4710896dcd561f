"""Names that different model families give to the same setting of a ``config.json``."""

POSITIONS = (
    "max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "max_seq_length",
    "max_sequence_len", "max_sequence_length", "seq_length",
)  # fmt: skip
"""The longest input in tokens. If a configuration has several, the first one applies."""
EXPERT_COUNTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
"""The number of experts in a layer from which a router chooses."""
