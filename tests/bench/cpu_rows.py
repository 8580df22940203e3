"""What cpu_peers.py times: the rows, their tensors, and for each one spec, mask and score in all contenders' words.

A mask is a function of b, h, i and j, and a score one of s as well; the same ones are read by FlexAttention, make the
bias tensors of peers that have no words for the row, and are the reference's.
"""
import dataclasses
import math

import numpy as np

CAP = 50.0
# How much faster than the best peer these kernels are meant to be, at least; 1.2 of other kinds.
ASKED = {"full": 1.1, "sliding": 1.5, "decode": 1.8}


@dataclasses.dataclass(frozen=True)
class Row:
    kind: str  # full, causal, sliding, alibi, softcap, document, prefix, decode
    type: str
    dim: int
    n: int  # keys, and query rows, of which decode has one
    heads: int = 8
    kv_heads: int = 8
    batch: int = 1
    window: int = 0

    @property
    def queries(self):
        return 1 if self.kind == "decode" else self.n

    @property
    def name(self):
        kind = "sliding %d" % self.window if self.kind == "sliding" else self.kind
        return "%s %s d=%d N=%d" % (kind, self.type, self.dim, self.n)

    @property
    def asked(self):
        return ASKED.get(self.kind, 1.2)

    def spec(self):
        statements = {"full": [], "decode": [], "causal": ["mask causal"],
                      "sliding": ["mask 0 <= i - j < %d" % self.window],
                      "alibi": ["position alibi(slope = alibi_slope)", "mask causal"],
                      "softcap": ["score softcap(s, %.1f)" % CAP, "mask causal"],
                      "document": ["input doc : i32[B, NK]", "mask causal and same(doc)"],
                      "prefix": ["input length : i32[B]", "mask prefix(length[b])"]}[self.kind]
        return "attention bench {\n  %s\n}\n" % "\n  ".join(
            ["heads q = %d, kv = %d" % (self.heads, self.kv_heads), "dim %d" % self.dim, "type %s" % self.type]
            + statements)


def rows():
    table = [Row("full", "f32", 128, n) for n in (2048, 4096)]
    table += [Row("full", "f32", 64, n) for n in (1024, 2048)]
    table += [Row("causal", "f32", 128, n) for n in (2048, 4096)]
    table += [Row("causal", "f32", 64, 2048), Row("sliding", "f32", 128, 4096, window=512)]
    table += [Row(kind, "f32", 128, 2048) for kind in ("alibi", "softcap", "document", "prefix")]
    table += [Row(kind, "bf16", 128, 2048) for kind in ("full", "causal")]
    table += [Row("decode", kind, 128, 4096, heads=32, batch=8) for kind in ("f32", "bf16", "f16")]
    return table


# ---- element types ----

def aligned(shape, dtype):
    """Uninitialised memory from the start of a cache line."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    memory = np.empty(size + 64, np.uint8)
    start = -memory.ctypes.data % 64
    return memory[start:start + size].view(dtype).reshape(shape)


def stored(values, kind):
    """Float32 values in the storage type; bf16, which numpy does not have, as its bits."""
    out = aligned(values.shape, {"f32": np.float32, "f16": np.float16, "bf16": np.uint16}[kind])
    if kind == "bf16":
        bits = values.view(np.uint32)
        out[...] = (bits + 0x7fff + (bits >> 16 & 1)) >> 16  # to nearest even; there are no NaN
    else:
        out[...] = values
    return out


def widened(values):
    """Float32 of what `stored` made."""
    if values.dtype == np.uint16:
        return (values.astype(np.uint32) << 16).view(np.float32)
    return values.astype(np.float32)


# ---- tensors ----

class Inputs:
    """q, k and v as [B, H, N, D], normally distributed; document ids, a prefix, slopes where the row has them."""

    def __init__(self, row, seed):
        generator = np.random.default_rng(seed)

        def draw(heads, n):
            return stored(generator.standard_normal((row.batch, heads, n, row.dim), np.float32), row.type)
        self.q = draw(row.heads, row.queries)
        self.k, self.v = draw(row.kv_heads, row.n), draw(row.kv_heads, row.n)
        self.o = aligned(self.q.shape, self.q.dtype)
        self.named = {}
        if row.kind == "document":
            ends = np.cumsum(generator.integers(row.n // 16, row.n // 4, 64))
            self.named["doc"] = np.searchsorted(ends, np.arange(row.n), "right").astype(np.int32)[None]
        if row.kind == "prefix":
            self.named["length"] = np.array([row.n // 4], np.int32)
        self.slope = 2.0 ** (-8.0 * (np.arange(row.heads, dtype=np.float32) + 1) / row.heads)


def functions(row, inputs, lib, convert):
    """(mask, score), None where there is none. `lib` is numpy or torch, `convert` makes its tensors of numpy's."""
    named = {name: convert(value) for name, value in inputs.named.items()}
    doc, length, slope = named.get("doc"), named.get("length"), convert(inputs.slope)
    window = row.window

    def causal(b, h, i, j):
        return i >= j

    def sliding(b, h, i, j):
        return (i >= j) & (i - j < window)

    def document(b, h, i, j):
        return (i >= j) & (doc[b, i] == doc[b, j])

    def prefix(b, h, i, j):
        return (i >= j) | (j < length[b])

    def softcap(s, b, h, i, j):
        return CAP * lib.tanh(s / CAP)

    def alibi(s, b, h, i, j):
        return s - slope[h] * (i - j)

    masks = {"full": None, "decode": None, "sliding": sliding, "document": document, "prefix": prefix}
    return masks.get(row.kind, causal), {"softcap": softcap, "alibi": alibi}.get(row.kind)


def places(row, start, stop):
    """i and j of query rows start .. stop, which broadcast. The last row sees all keys of a causal mask."""
    i = np.arange(start, stop, dtype=np.int32)[:, None] + (row.n - row.queries)
    return i, np.arange(row.n, dtype=np.int32)[None, :]


def bias(row, inputs):
    """[1, 1 or H, N, N] in the storage type: what is added to the scores, minus infinity where a key is hidden."""
    mask, score = functions(row, inputs, np, lambda t: t)
    i, j = places(row, 0, row.queries)
    layers = row.heads if row.kind == "alibi" else 1
    out = np.empty((1, layers, row.queries, row.n), np.float32)
    for h in range(layers):
        out[0, h] = 0 if score is None else score(np.float32(0), 0, h, i, j)
        out[0, h][~mask(0, h, i, j)] = -np.inf
    return stored(out, row.type)


def visible_pairs(row, inputs):
    """Of one head, all sequences together."""
    mask, _ = functions(row, inputs, np, lambda t: t)
    if mask is None:
        return row.batch * row.queries * row.n
    return int(np.count_nonzero(mask(0, 0, *places(row, 0, row.queries))))


# ---- the check ----

class Errors:
    """The error rule: max|out - ref| <= 2 max|naive - ref| + 1e-5 max|ref|, for the first and last head of the first
    and last sequence. ref is float64, naive the formula with every step rounded to the storage type."""

    def __init__(self, row, inputs):
        self.row, self.inputs = row, inputs
        self.mask, self.score = functions(row, inputs, np, lambda t: t)
        self.slices = [(b, h) for b in sorted({0, row.batch - 1}) for h in (0, row.heads - 1)]
        self.references = [self.reference(b, h) for b, h in self.slices]

    def attend(self, b, h, start, stop, exact):
        row, inputs = self.row, self.inputs
        group = h // (row.heads // row.kv_heads)
        dtype = np.float64 if exact else np.float32
        q, k, v = (widened(t).astype(dtype, copy=False)
                   for t in (inputs.q[b, h, start:stop], inputs.k[b, group], inputs.v[b, group]))

        def rounded(values):
            return values if exact or row.type == "f32" else widened(stored(values, row.type))
        i, j = places(row, start, stop)
        s = rounded((q * dtype(row.dim ** -0.5)) @ k.T)
        if self.score is not None:
            s = rounded(self.score(s, b, h, i, j).astype(dtype, copy=False))
        if self.mask is not None:
            s = np.where(self.mask(b, h, i, j), s, -np.inf)
        p = np.exp(s - s.max(axis=1, keepdims=True))
        return rounded(rounded((p / p.sum(axis=1, keepdims=True)).astype(dtype, copy=False)) @ v)

    def reference(self, b, h):
        parts, naive_error = [], 0.0
        for start in range(0, self.row.queries, 1024):
            stop = min(start + 1024, self.row.queries)
            parts.append(self.attend(b, h, start, stop, True))
            naive_error = max(naive_error, float(np.abs(self.attend(b, h, start, stop, False) - parts[-1]).max()))
        ref = np.concatenate(parts)
        return ref, 2 * naive_error + 1e-5 * float(np.abs(ref).max())

    def worst(self, out):
        """Of what the rule allows, of an output [B, H, N, D] as `stored` has it. Infinite where it is not finite."""
        share = 0.0
        for (b, h), (ref, allowed) in zip(self.slices, self.references):
            head = widened(out[b, h]).astype(np.float64)
            share = max(share, float(np.abs(head - ref).max()) / allowed if np.isfinite(head).all() else math.inf)
        return share
