"""Tokenizers with the layout of widely used models, trained on the corpus.

Each entry of :data:`LAYOUTS` gives the tokenizer of ``tokenizer.json``, ``tokenizer_config.json``
and the type of model, as the files of transformers 4 have them.
"""

import json
from functools import cache
from pathlib import Path

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from compression_gates.fixtures.world import corpus

ENDLESS = 1000000000000000019884624838656
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
CUT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@cache
def _texts():
    return [corpus.passage("calibration", index).text for index in range(200)]


def _special(*contents, **flags):
    return [AddedToken(text, special=True, normalized=False, **flags) for text in contents]


def _template(single, pair, *tokens):
    return processors.TemplateProcessing(single=single, pair=pair, special_tokens=list(tokens))


def _sentencepiece(special, normalizer, splitter):
    """Return a byte-pair tokenizer with visible spaces and byte fallback."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    tokenizer.normalizer = normalizer
    if splitter is not None:
        tokenizer.pre_tokenizer = splitter
    trainer = trainers.BpeTrainer(
        vocab_size=700, special_tokens=[*special, *BYTES], show_progress=False
    )
    tokenizer.train_from_iterator(_texts(), trainer)
    described = json.loads(tokenizer.to_str())
    described["added_tokens"] = described["added_tokens"][: len(special)]
    return Tokenizer.from_str(json.dumps(described))


def llama_2():
    tokenizer = _sentencepiece(
        ["<unk>", "<s>", "</s>"],
        normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]),
        None,
    )
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
         decoders.Strip(" ", 1, 0)]
    )  # fmt: skip
    tokenizer.post_processor = _template("<s> $A", "<s> $A <s> $B", ("<s>", 1))
    config = {
        "tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>",
        "unk_token": "<unk>", "model_max_length": ENDLESS, "add_bos_token": True,
        "add_eos_token": False, "legacy": False, "sp_model_kwargs": {},
    }  # fmt: skip
    return tokenizer, config, "llama"


def gemma():
    special = ["<pad>", "<eos>", "<bos>", "<unk>"]
    tokenizer = _sentencepiece(
        special,
        normalizers.Replace(" ", "▁"),
        pre_tokenizers.Split(" ", "merged_with_previous"),
    )
    tokenizer.add_special_tokens(_special("<start_of_turn>", "<end_of_turn>"))
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    tokenizer.post_processor = _template("<bos> $A", "<bos> $A <bos>:1 $B:1", ("<bos>", 2))
    names = {"pad_token": 0, "eos_token": 1, "bos_token": 2, "unk_token": 3}
    config = {
        "tokenizer_class": "GemmaTokenizer", **{name: special[i] for name, i in names.items()},
        "add_bos_token": True, "add_eos_token": False, "model_max_length": ENDLESS,
        "spaces_between_special_tokens": False,
    }  # fmt: skip
    return tokenizer, config, "gemma"


def _byte_level(special, cut=None):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if cut is not None:
        last = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        first = pre_tokenizers.Split(Regex(cut), "isolated")
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([first, last])
    trainer = trainers.BpeTrainer(
        vocab_size=500, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(_texts(), trainer)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    tokenizer.add_special_tokens(_special(*special))
    return tokenizer


def gpt_2():
    end = "<|endoftext|>"
    config = {
        "tokenizer_class": "GPT2Tokenizer", "bos_token": end, "eos_token": end, "unk_token": end,
        "model_max_length": 1024, "add_prefix_space": False,
    }  # fmt: skip
    return _byte_level([end]), config, "gpt2"


def qwen_2():
    tokenizer = _byte_level(["<|endoftext|>", "<|im_start|>", "<|im_end|>"], CUT)
    tokenizer.normalizer = normalizers.NFC()
    config = {
        "tokenizer_class": "Qwen2Tokenizer", "bos_token": None, "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>", "unk_token": None, "model_max_length": 131072,
        "add_prefix_space": False, "errors": "replace", "split_special_tokens": False,
        "additional_special_tokens": ["<|im_start|>", "<|im_end|>"],
        "chat_template": "{% for m in messages %}<|im_start|>{{ m['content'] }}<|im_end|>"
        "{% endfor %}",
    }  # fmt: skip
    return tokenizer, config, "qwen2"


def llama_3():
    reserved = [f"<|reserved_special_token_{index}|>" for index in range(20)]
    tokenizer = _byte_level(["<|begin_of_text|>", "<|eot_id|>", *reserved], CUT)
    begin = ("<|begin_of_text|>", tokenizer.token_to_id("<|begin_of_text|>"))
    tokenizer.post_processor = processors.Sequence(
        [processors.ByteLevel(trim_offsets=False),
         _template(f"{begin[0]} $A", f"{begin[0]} $A {begin[0]}:1 $B:1", begin)]
    )  # fmt: skip
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": begin[0],
        "eos_token": "<|eot_id|>", "model_max_length": 131072,
        "clean_up_tokenization_spaces": True, "model_input_names": ["input_ids", "attention_mask"],
    }  # fmt: skip
    return tokenizer, config, "llama"


def roberta():
    tokenizer = _byte_level(["<s>", "<pad>", "</s>", "<unk>"])
    tokenizer.add_special_tokens(_special("<mask>", lstrip=True))
    ends = [(token, tokenizer.token_to_id(token)) for token in ("</s>", "<s>")]
    tokenizer.post_processor = processors.RobertaProcessing(*ends, add_prefix_space=False)
    mask = {
        "__type": "AddedToken", "content": "<mask>", "lstrip": True, "rstrip": False,
        "normalized": False, "single_word": False,
    }  # fmt: skip
    config = {
        "tokenizer_class": "RobertaTokenizer", "bos_token": "<s>", "eos_token": "</s>",
        "cls_token": "<s>", "sep_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>",
        "mask_token": mask, "model_max_length": 512, "add_prefix_space": False,
    }  # fmt: skip
    return tokenizer, config, "roberta"


def bert():
    """Return a tokenizer with the truncation and fixed padding of some published files."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=500, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(_texts(), trainer)
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = _template(
        "[CLS]:0 $A:0 [SEP]:0", "[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1", ("[CLS]", 2), ("[SEP]", 3)
    )
    tokenizer.enable_truncation(512)
    tokenizer.enable_padding(length=512)
    names = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
    config = {
        "tokenizer_class": "BertTokenizer", **dict(zip(names, special, strict=True)),
        "do_lower_case": True, "model_max_length": 512, "strip_accents": None,
        "tokenize_chinese_chars": True, "clean_up_tokenization_spaces": True,
    }  # fmt: skip
    return tokenizer, config, "bert"


def t5():
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(prepend_scheme="always")]
    )
    trainer = trainers.UnigramTrainer(
        vocab_size=400, special_tokens=["<pad>", "</s>", "<unk>"], unk_token="<unk>",
        show_progress=False,
    )  # fmt: skip
    tokenizer.train_from_iterator(_texts(), trainer)
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = _template("$A </s>", "$A </s> $B </s>", ("</s>", 1))
    extra = [f"<extra_id_{index}>" for index in range(10)]
    tokenizer.add_special_tokens(_special(*extra))
    config = {
        "tokenizer_class": "T5Tokenizer", "eos_token": "</s>", "pad_token": "<pad>",
        "unk_token": "<unk>", "extra_ids": 10, "model_max_length": 512,
        "additional_special_tokens": extra,
    }  # fmt: skip
    return tokenizer, config, "t5"


LAYOUTS = (llama_2, gemma, gpt_2, qwen_2, llama_3, roberta, bert, t5)


@cache
def _files(layout) -> dict[str, str]:
    tokenizer, config, model_type = layout()
    return {
        "tokenizer.json": tokenizer.to_str(),
        "tokenizer_config.json": json.dumps(config),
        "model_type": model_type,
    }


def write(layout, directory: Path) -> None:
    """Write the tokenizer of a layout into a copy of a shipped checkpoint."""
    files = dict(_files(layout))
    config = json.loads((directory / "config.json").read_text())
    config |= {"model_type": files.pop("model_type"), "max_position_embeddings": 512}
    (directory / "config.json").write_text(json.dumps(config))
    (directory / "chat_template.jinja").unlink(missing_ok=True)
    for name, text in files.items():
        (directory / name).write_text(text)
