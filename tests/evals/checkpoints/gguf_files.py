"""Changes to the header of a GGUF file."""

from compression_gates.evals.checkpoints.findings import Severity
from compression_gates.evals.data.items import DataSet, Text
from compression_gates.fixtures.world.shipped import MODELS

BASE = MODELS / "llama-tiny"
SHORT = DataSet("short", (Text("Rufus lives in Merrin.", 0),))
LONG = DataSet("long", (Text("Rufus lives in Merrin. " * 40, 0),))
NOTHING = {severity: [] for severity in Severity}


def set_key(key, value, add="add_float32"):
    return lambda writer: getattr(writer, add)(key, value)


def drop_key(key):
    return lambda writer: writer.kv_data[0].pop(key)


def change_list(key, change):
    """Change a list of a header when it is written."""
    return lambda writer: change(writer.kv_data[0][key].value)
