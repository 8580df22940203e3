"""What gpu_bench.py times: the rows, and for each one spec, mask and score in the words of every contender."""
import dataclasses
import random

import torch

HIDDEN, TOKENS = 2048, 16384
CAP, SLIDING = 50.0, 4096
DTYPES = {"bf16": torch.bfloat16, "f16": torch.float16, "f32": torch.float32}


@dataclasses.dataclass(frozen=True)
class Row:
    kind: str  # full, causal, sliding, softcap, alibi, document
    type: str
    dim: int
    n: int
    heads: int
    kv_heads: int
    batch: int
    window: int = 0

    @property
    def name(self):
        grouped = "" if self.heads == self.kv_heads else " %d/%d heads" % (self.heads, self.kv_heads)
        return "%s%s%s" % (self.kind, " %d" % self.window if self.window else "", grouped)

    @property
    def full_name(self):
        return "%s %s d=%d N=%d" % (self.name, self.type, self.dim, self.n)

    def spec(self):
        heads = "heads %d" % self.heads if self.heads == self.kv_heads else \
            "heads q = %d, kv = %d" % (self.heads, self.kv_heads)
        statements = {"full": [], "causal": ["mask causal"], "softcap": ["score softcap(s, %.1f)" % CAP, "mask causal"],
                      "sliding": ["mask 0 <= i - j < %d" % self.window],
                      "alibi": ["position alibi(slope = alibi_slope)", "mask causal"],
                      "document": ["input doc : i32[B, NK]", "mask causal and same(doc)"]}[self.kind]
        return "attention bench {\n  %s\n}\n" % "\n  ".join([heads, "dim %d" % self.dim, "type %s" % self.type]
                                                            + statements)

    def visible_pairs(self, documents):
        """Pairs of one head, all sequences together. `documents`: lengths by sequence."""
        def triangle(n):
            return n * (n + 1) // 2
        if self.kind == "full":
            return self.batch * self.n * self.n
        if self.kind == "sliding":
            width = min(self.window, self.n)
            return self.batch * (triangle(width) + (self.n - width) * width)
        if self.kind == "document":
            return sum(triangle(length) for lengths in documents for length in lengths)
        return self.batch * triangle(self.n)

    def flops(self, documents):
        return 4 * self.dim * self.heads * self.visible_pairs(documents)

    def inputs(self, seed, device):
        return Inputs(self, seed, device)

    @property
    def least_sets(self):
        return 3


def make(kind, dtype, dim, n, shrink, heads=None, kv_heads=None, window=0):
    heads = heads or HIDDEN // dim
    n, tokens = max(n // shrink, 16), max(TOKENS // shrink, 16)
    batch = 1 if kind == "document" else max(1, tokens // n)
    return Row(kind, dtype, dim, n, heads, kv_heads or heads, batch, max(1, window // shrink) if window else 0)


def rows(quick=False, shrink=1):
    """The rows that matter most come first, because the time may end before the list does."""
    k = 1024
    table = []

    def add(*arguments, **options):
        table.append(make(*arguments, shrink=shrink, **options))

    sizes = (4 * k,) if quick else (4 * k, 8 * k, 16 * k, 2 * k, k)
    for n in sizes:
        for dim in (64, 128):
            add("full", "bf16", dim, n)
            add("causal", "bf16", dim, n)
    for n in (4 * k,) if quick else (4 * k, 16 * k):
        add("causal", "bf16", 128, n, heads=32, kv_heads=8)
        add("softcap", "bf16", 128, n)
        add("alibi", "bf16", 128, n)
    add("sliding", "bf16", 128, 16 * k, window=SLIDING, heads=32, kv_heads=8)
    add("document", "bf16", 128, 16 * k)
    if quick:
        return table
    add("document", "bf16", 64, 16 * k)
    add("sliding", "bf16", 64, 16 * k, window=k)
    add("alibi", "bf16", 64, 8 * k)
    add("softcap", "bf16", 64, 8 * k)
    for n in (4 * k, 16 * k):
        for dim in (64, 128):
            add("full", "f16", dim, n)
            add("causal", "f16", dim, n)
    for dim in (64, 128):
        add("full", "f32", dim, 4 * k)
        add("causal", "f32", dim, 4 * k)
    return table


class Inputs:
    """Tensors of one set, drawn anew for each seed."""

    def __init__(self, row, seed, device):
        generator = torch.Generator(device=device).manual_seed(seed)
        dtype = DTYPES[row.type]

        def draw(heads):
            return torch.randn(row.batch, heads, row.n, row.dim, generator=generator, device=device,
                               dtype=torch.float32).to(dtype)
        self.q, self.k, self.v = draw(row.heads), draw(row.kv_heads), draw(row.kv_heads)
        self.o = torch.full_like(self.q, float("nan"))
        self.lengths, self.doc = [], None
        if row.kind == "document":
            chooser = random.Random(seed)
            ids = torch.empty(row.batch, row.n, dtype=torch.int32)
            for b in range(row.batch):
                lengths, left = [], row.n
                while left > 0:
                    lengths.append(min(left, chooser.randint(max(1, row.n // 64), max(1, row.n // 6))))
                    left -= lengths[-1]
                self.lengths.append(lengths)
                ids[b] = torch.repeat_interleave(torch.arange(len(lengths), dtype=torch.int32), torch.tensor(lengths))
            self.doc = ids.to(device)

    def bytes(self):
        return sum(t.numel() * t.element_size() for t in (self.q, self.k, self.v, self.o))


def slopes(row, device):
    return torch.tensor([2.0 ** (-8.0 * (h + 1) / row.heads) for h in range(row.heads)], device=device)


def mask_at(row, inputs, b, i, j):
    """Whether pairs of sequence b are visible; i and j broadcast. None: all are."""
    if row.kind == "full":
        return None
    visible = i >= j
    if row.kind == "sliding":
        visible = visible & (i - j < row.window)
    if row.kind == "document":
        visible = visible & (inputs.doc[b][i] == inputs.doc[b][j])
    return visible


def score_at(row, s, slope, i, j):
    """The scaled score, changed as the row says."""
    if row.kind == "softcap":
        return CAP * torch.tanh(s / CAP)
    if row.kind == "alibi":
        wide = torch.promote_types(s.dtype, torch.float32)
        return (s.to(wide) - slope.to(wide) * (i - j)).to(s.dtype)
    return s


def dense_mask(row, inputs):
    """The attn_mask that scaled_dot_product_attention takes: None where it needs none, False where it has no words for
    the row or the mask would take more than 1 GiB."""
    if row.kind in ("full", "causal"):
        return None
    layers = row.heads if row.kind == "alibi" else row.batch if row.kind == "document" else 1
    if row.kind == "softcap" or layers * row.n * row.n * inputs.q.element_size() > 1 << 30:
        return False
    device = inputs.q.device
    i, j = torch.arange(row.n, device=device)[:, None], torch.arange(row.n, device=device)[None, :]
    if row.kind == "document":
        return torch.stack([mask_at(row, inputs, b, i, j) for b in range(row.batch)])[:, None]
    if row.kind == "sliding":
        return mask_at(row, inputs, 0, i, j)[None, None]
    bias = -slopes(row, device)[:, None, None] * (i - j)
    return bias.masked_fill(i < j, float("-inf")).to(inputs.q.dtype)[None]


def flex_functions(row, inputs):
    """mask_mod and score_mod of FlexAttention, None for none."""
    doc, window = inputs.doc, row.window
    slope = slopes(row, inputs.q.device)

    def causal(b, h, i, j):
        return i >= j

    def sliding(b, h, i, j):
        return (i >= j) & (i - j < window)

    def document(b, h, i, j):
        return (i >= j) & (doc[b, i] == doc[b, j])

    def softcap(score, b, h, i, j):
        return CAP * torch.tanh(score / CAP)

    def alibi(score, b, h, i, j):
        return score - slope[h] * (i - j)

    masks = {"full": None, "sliding": sliding, "document": document}
    scores = {"softcap": softcap, "alibi": alibi}
    return masks.get(row.kind, causal), scores.get(row.kind)


class Errors:
    """The error rule: max|out - ref| <= 2 max|naive - ref| + 1e-5 max|ref| for each sequence and head that is looked
    at, the first, middle and last heads of the first and last sequence. ref is float32 (float64 for f32), naive the
    formula in the storage type; the worst is kept in units of what the rule allows."""

    def __init__(self, row, inputs):
        self.row, self.inputs, self.chunk = row, inputs, 2048
        self.slices = [(b, h) for b in sorted({0, row.batch - 1})
                       for h in sorted({0, row.heads // 2, row.heads - 1})]
        self.references = [self.reference(b, h) for b, h in self.slices]

    def attend(self, b, h, dtype, start, stop):
        row, inputs = self.row, self.inputs
        group = h // (row.heads // row.kv_heads)
        q, k, v = inputs.q[b, h, start:stop].to(dtype), inputs.k[b, group].to(dtype), inputs.v[b, group].to(dtype)
        i = torch.arange(start, stop, device=q.device)[:, None]
        j = torch.arange(row.n, device=q.device)[None, :]
        s = score_at(row, (q * row.dim ** -0.5) @ k.T, slopes(row, q.device)[h], i, j)
        visible = mask_at(row, inputs, b, i, j)
        if visible is not None:
            s = s.masked_fill(~visible, float("-inf"))
        return torch.softmax(s, dim=-1) @ v

    def reference(self, b, h):
        exact = torch.float64 if self.row.type == "f32" else torch.float32
        ref, naive_error, largest = [], 0.0, 0.0
        for start in range(0, self.row.n, self.chunk):
            stop = min(start + self.chunk, self.row.n)
            ref.append(self.attend(b, h, exact, start, stop))
            naive = self.attend(b, h, self.inputs.q.dtype, start, stop)
            naive_error = max(naive_error, float((naive.to(exact) - ref[-1]).abs().max()))
            largest = max(largest, float(ref[-1].abs().max()))
        return torch.cat(ref), 2 * naive_error + 1e-5 * largest

    def worst(self, out):
        """Of what the rule allows; infinite where the output is not all finite."""
        if not bool(torch.isfinite(out).all()):
            return float("inf")
        return max(float((out[b, h].to(ref.dtype) - ref).abs().max()) / allowed
                   for (b, h), (ref, allowed) in zip(self.slices, self.references))
