"""Rows of gpu_bench.py on caches: decoding, decoding with a shared prefix, appending.

The contenders of a row are timed together: this project's kernels on several caches of the same keys and values, peers,
and two kernels of PyTorch that do nothing but move memory. Speeds are the bytes of K and V that a contender has to
touch, by its own storage, over its time; the largest speed of the moving kernels is what the device can read.
"""
import dataclasses
import importlib.util

import torch

import attn_ctypes
from gpu_contenders import FLASH, OURS, SDPA, Contender, Entry, sdpa_backend, stream_of, view, with_workspace
from gpu_rows import DTYPES

MOVERS = ("read", "copy")
MOVED = 1 << 30  # bytes that they go over
# By the name in the table: pages, 0 for one row of memory a sequence, and the storage.
CACHES = {"dense": (0, None), "paged 64": (64, None), "paged 16": (16, None), "int8": (64, "int8"),
          "e4m3": (64, "e4m3")}
MOST = {"int8": 127.0, "e4m3": 448.0}


@dataclasses.dataclass(frozen=True)
class Row:
    kind: str  # decode, cascade, append
    batch: int
    n: int  # keys of a sequence; tokens that are appended
    prefix: int = 0  # of them, shared by all sequences
    type: str = "bf16"
    heads: int = 32
    kv_heads: int = 8
    dim: int = 128
    window: int = 0

    @property
    def name(self):
        return "%s%s" % (self.kind, " %d shared" % self.prefix if self.prefix else "")

    @property
    def full_name(self):
        return "%s %s d=%d B=%d N=%d" % (self.name, self.type, self.dim, self.batch, self.n)

    def spec(self, cache):
        page, storage = CACHES[cache]
        layout = "paged(page = %d)" % page if page else "dense"
        stored = ", k = {0}, v = {0}".format("int8(axis = token)" if storage == "int8" else storage) if storage else ""
        return ("attention bench {\n  heads q = %d, kv = %d\n  dim %d\n  type %s\n  mask causal\n  cache %s%s\n}\n"
                % (self.heads, self.kv_heads, self.dim, self.type, layout, stored))

    def token_bytes(self, storage):
        """K and V of a token, with their scales."""
        element = 1 if storage else torch.empty(0, dtype=DTYPES[self.type]).element_size()
        return 2 * self.kv_heads * (self.dim * element + (4 if storage else 0))

    def bytes(self, storage=None, shared=False):
        """What has to be read; of an append, read and written. `shared`: the prefix once."""
        if self.kind == "append":
            return self.batch * self.n * (self.token_bytes(None) + self.token_bytes(storage))
        tokens = self.batch * self.n - (self.prefix * (self.batch - 1) if shared else 0)
        return tokens * self.token_bytes(storage)

    def inputs(self, seed, device):
        return Inputs(self, seed, device)

    @property
    def least_sets(self):
        return 1 # those of the larger rows are larger than any cache


def rows(quick=False, shrink=1):
    k = 1024
    table = [Row("decode", batch, max(n // shrink, 64))
             for n in ((4 * k,) if quick else (4 * k, 32 * k)) for batch in (1, 8, 32)]
    prefix, own = max(8 * k // shrink // 64, 2) * 64, max(512 // shrink // 64, 1) * 64
    table.append(Row("cascade", 32, prefix + own, prefix))
    table.append(Row("append", 8, max(2 * k // shrink, 64)))
    return table


# ---- tensors ----

class Inputs:
    """Queries, keys and values of one set, [B, heads, tokens, D]; for `cascade` the first tokens of all sequences are
    the same."""

    def __init__(self, row, seed, device):
        self.row, self.device = row, device
        generator = torch.Generator(device=device).manual_seed(seed)

        def draw(heads, tokens):
            return torch.randn(row.batch, heads, tokens, row.dim, generator=generator, device=device,
                               dtype=torch.float32 if device.type == "cpu" else DTYPES[row.type]).to(DTYPES[row.type])
        self.q, self.k, self.v = draw(row.heads, 1), draw(row.kv_heads, row.n), draw(row.kv_heads, row.n)
        for x in (self.k, self.v):
            x[:, :, :row.prefix] = x[:1, :, :row.prefix].clone()
        self.o = torch.full_like(self.q, float("nan"))
        self.seed = seed

    def bytes(self):
        return self.row.bytes(shared=True)


def quantise(x, storage):
    """Codes and the scale of each row of channels, as docs/caches.md says; one sequence at a time, for the memory."""
    def one(x):
        scale = x.float().abs().amax(dim=-1, keepdim=True) / MOST[storage]
        codes = x.float() / torch.where(scale == 0, 1, scale)
        if storage == "int8":
            return torch.floor(codes + 0.5).clamp(-127, 127).to(torch.int8), scale
        return codes.to(torch.float8_e4m3fn).view(torch.uint8), scale
    codes, scales = zip(*(one(sequence) for sequence in x))
    return torch.stack(codes), torch.stack(scales)


def values(codes, scale):
    numbers = codes.view(torch.float8_e4m3fn) if codes.dtype == torch.uint8 else codes
    return numbers.float() * scale


class Cache:
    """The tensors of a cache with the keys and values of a set, by the names that launches take. Pages lie in random
    order; those of a shared prefix come first, once. `filled`: with all keys, else zeros."""

    def __init__(self, row, inputs, name, filled=True, shared=False):
        self.page, self.storage = CACHES[name]
        self.device = inputs.device
        self.lengths = torch.full((row.batch,), row.n, dtype=torch.int32, device=inputs.device)
        self.tensors = {"lengths": (self.lengths, "i32")}
        self.order = None
        if self.page:
            self.number_pages(row, inputs, shared)
        for part, x in (("k", inputs.k), ("v", inputs.v)):
            if self.storage is None:
                self.put(part, x, row.type, filled)
                continue
            codes, scale = quantise(x, self.storage)
            self.put(part, codes, "i8" if self.storage == "int8" else "u8", filled)
            self.put(part + ".scale", scale, "f32", filled)

    def number_pages(self, row, inputs, shared):
        pages, common = -(-row.n // self.page), row.prefix // self.page if shared else 0
        own = pages - common
        chooser = torch.Generator().manual_seed(inputs.seed)
        order = torch.randperm(common + row.batch * own, generator=chooser)
        table = torch.cat([order[:common].expand(row.batch, common), order[common:].view(row.batch, own)], dim=1)
        self.table = table.to(device=inputs.device, dtype=torch.int32)
        self.pages = len(order)
        self.tensors["page_table"] = (self.table, "i32")

    def put(self, name, x, kind, filled):
        """[B, G, N, C] into rows [B, slots, G, C] or pages [pages, page, G, C], heads first in memory."""
        if self.page:
            batch, heads, tokens, channels = x.shape
            rest = -tokens % self.page
            if rest:
                x = torch.cat([x, torch.zeros(batch, heads, rest, channels, dtype=x.dtype, device=x.device)], dim=2)
            x = x.view(batch, heads, -1, self.page, channels).transpose(1, 2)
            memory = torch.zeros(self.pages, heads, self.page, channels, dtype=x.dtype, device=x.device)
            if filled:
                memory[self.table.long()] = x
        else:
            memory = x if filled else torch.zeros_like(x)
        self.tensors[name] = (memory.transpose(1, 2), kind)

    def stored(self, part):
        """K or V as [B, G, N, C], in f32, for sequence b and head g."""
        memory = self.tensors[part][0].transpose(1, 2)
        scale = self.tensors[part + ".scale"][0].transpose(1, 2) if self.storage else None

        def of(b, g):
            def rows_of(x):
                return x[self.table[b].long(), g].flatten(0, 1) if self.page else x[b, g]
            x = rows_of(memory)
            return x.float() if scale is None else values(x, rows_of(scale))
        return of


class Errors:
    """The error rule of gpu_rows.py, for one query and the keys and values as they are stored."""

    def __init__(self, row, inputs, cache):
        self.references = []
        key, value = cache.stored("k"), cache.stored("v")
        for b in sorted({0, row.batch - 1}):
            for h in sorted({0, row.heads // 2, row.heads - 1}):
                g = h // (row.heads // row.kv_heads)
                k, v = key(b, g)[:row.n], value(b, g)[:row.n]
                ref = self.attend(inputs.q[b, h], k, v, torch.float32)
                naive = self.attend(inputs.q[b, h], k, v, inputs.q.dtype).float()
                allowed = 2 * float((naive - ref).abs().max()) + 1e-5 * float(ref.abs().max())
                self.references.append((b, h, ref, allowed))

    @staticmethod
    def attend(q, k, v, dtype):
        s = (q.to(dtype) * q.shape[-1] ** -0.5) @ k.to(dtype).T
        return torch.softmax(s, dim=-1) @ v.to(dtype)

    def worst(self, out):
        if not bool(torch.isfinite(out).all()):
            return float("inf")
        return max(float((out[b, h].float() - ref).abs().max()) / allowed for b, h, ref, allowed in self.references)


# ---- contenders ----

def make_mover(name, device, shrink):
    data = torch.ones(MOVED // 4 // shrink, dtype=torch.float32, device=device)
    if name == "read":
        return Contender([lambda: data.sum()])
    other = torch.empty_like(data)
    return Contender([lambda: other.copy_(data)])


def mover_bytes(name, shrink):
    return MOVED // shrink * (2 if name == "copy" else 1)


def variant(shared):
    return {"queries": 1, "on_cache": 1, "shared_prefix": int(shared)}


def make_ours(row, sets, caches, name, context, shared=False, schedule=None):
    program = attn_ctypes.Program(context, row.spec(name), row.type, schedule, variant(shared))
    launches = []
    for inputs, cache in zip(sets, caches):
        q, o = (view(context, t, row.type) for t in (inputs.q, inputs.o))
        tensors = {key: view(context, *tensor) for key, tensor in cache.tensors.items()}
        launch = attn_ctypes.Launch(program, q, None, None, o, stream=stream_of(inputs.q), cache=tensors,
                                    max_length=row.n, shared_prefix=row.prefix if shared else 0)
        launches.append(with_workspace(launch, inputs.o))
    return Contender(launches, close=program.close)


def make_sdpa(sets, name):
    def run(inputs):
        return torch.nn.functional.scaled_dot_product_attention(inputs.q, inputs.k, inputs.v, enable_gqa=True)
    return Contender([lambda inputs=inputs: run(inputs) for inputs in sets], sdpa_backend(name))


def make_flashinfer(row, sets, caches):
    """Its decode kernel on the same pages."""
    if importlib.util.find_spec("flashinfer") is None:
        raise NotImplementedError
    import flashinfer
    launches = []
    for inputs, cache in zip(sets, caches):
        pages = cache.table.shape[1]
        wrapper = flashinfer.BatchDecodeWithPagedKVCacheWrapper(
            torch.empty(128 << 20, dtype=torch.uint8, device=inputs.device), "HND", use_tensor_cores=True)
        starts = torch.arange(row.batch + 1, dtype=torch.int32, device=inputs.device) * pages
        last = torch.full((row.batch,), (row.n - 1) % cache.page + 1, dtype=torch.int32, device=inputs.device)
        wrapper.plan(starts, cache.table.flatten(), last, row.heads, row.kv_heads, row.dim, cache.page,
                     q_data_type=inputs.q.dtype, kv_data_type=inputs.q.dtype)
        kv = tuple(cache.tensors[part][0].transpose(1, 2) for part in ("k", "v"))
        launches.append(lambda wrapper=wrapper, q=inputs.q[:, :, 0], kv=kv: wrapper.run(q, kv)[:, :, None])
    return Contender(launches)


def make_append(row, sets, name, context):
    """Appends to empty caches, over and over."""
    program = attn_ctypes.Program(context, row.spec(name), row.type, None, {"kernel": "append", "on_cache": 1})
    launches = []
    for inputs in sets:
        cache = Cache(row, inputs, name, filled=False)
        new = [view(context, t, row.type) for t in (inputs.k, inputs.v)]
        tensors = {key: view(context, *tensor) for key, tensor in cache.tensors.items()}
        launch = attn_ctypes.Launch(program, None, *new, None, stream=stream_of(inputs.q), cache=tensors,
                                    max_length=row.n, append=True)
        launches.append(with_workspace(launch, cache))
    return Contender(launches, close=program.close)


def append_error(row, inputs, name):
    """Whether an append left what this file means by the cache: 0, or infinite. Codes may be one apart, since quotients
    here and there may have other last bits."""
    wanted = Cache(row, inputs, name)

    def worst(cache):
        for part in ("k", "v"):
            got, meant = cache.tensors[part][0], wanted.tensors[part][0]
            same = torch.equal(got, meant)
            if cache.storage is not None:
                scale = wanted.tensors[part + ".scale"][0]
                apart = (values(got, cache.tensors[part + ".scale"][0]) - values(meant, scale)).abs()
                same = bool((apart <= 1.01 * scale).all())
            if not same:
                return float("inf")
        return 0.0
    return worst


def make_scatter(sets, caches):
    """PyTorch's own: index_put into pages."""
    def run(inputs, cache):
        page, shape = cache.page, inputs.k.shape
        for part, x in (("k", inputs.k), ("v", inputs.v)):
            pages = x.view(shape[0], shape[1], -1, page, shape[3]).transpose(1, 2)
            cache.tensors[part][0].transpose(1, 2)[cache.table.long()] = pages
        return cache
    return Contender([lambda inputs=inputs, cache=cache: run(inputs, cache) for inputs, cache in zip(sets, caches)])


def append_entries(row, sets, context, peers):
    made = {}
    for name in ("paged 64", "int8"):
        made["%s, %s" % (OURS, name)] = Entry(True, lambda name=name: make_append(row, sets, name, context),
                                              append_error(row, sets[0], name), {"bytes": row.bytes(CACHES[name][1])})
    if peers:
        made["index_put"] = Entry(
            False, lambda: make_scatter(sets, [Cache(row, inputs, "paged 64", filled=False) for inputs in sets]),
            append_error(row, sets[0], "paged 64"), {"bytes": row.bytes()})
    return made


def decode_entries(row, sets, context, peers):
    """Shared pages where the row has a prefix; with it, and without."""
    cascade = row.prefix > 0
    caches = {name: [Cache(row, inputs, name, shared=cascade) for inputs in sets]
              for name in (("paged 64",) if cascade else CACHES)}
    made, worst = {}, None
    for name, own in caches.items():
        for shared in (True, False) if cascade else (False,):
            title = "%s, %s%s" % (OURS, name, "" if not cascade else " shared" if shared else " apart")
            worst = Errors(row, sets[0], own[0]).worst
            made[title] = Entry(
                True, lambda name=name, own=own, shared=shared: make_ours(row, sets, own, name, context, shared),
                worst, {"bytes": row.bytes(own[0].storage, cascade)})
    exact = Errors(row, sets[0], caches["paged 64"][0]).worst
    work = {"bytes": row.bytes(shared=cascade)}
    for name in SDPA:
        made[name] = Entry(False, lambda name=name: make_sdpa(sets, name), exact, work)
    made["flashinfer"] = Entry(False, lambda: make_flashinfer(row, sets, caches["paged 64"]), exact, work)
    return {name: entry for name, entry in made.items() if entry.ours or name in peers}


def entries(row, sets, context, peers, shrink):
    """By name; first this project's."""
    made = (append_entries if row.kind == "append" else decode_entries)(row, sets, context, peers)
    for name in MOVERS:
        made[name] = Entry(False, lambda name=name: make_mover(name, sets[0].device, shrink), None,
                           {"bytes": mover_bytes(name, shrink)})
    return made


# ---- the table ----

def cell(record):
    status = record.get("status", "none")
    return "%.3g" % record["gbps"] if "gbps" in record else "-" if status == "none" else status


def ratio(x, y):
    return "%.2f" % (x / y) if x and y else "-"


def print_table(report_rows):
    """`of best` and `of flash` are ratios of speeds, of times turned over."""
    names = [name for name in SDPA + ("flashinfer", "index_put")
             if any(name in row["contenders"] for row in report_rows)]
    heads = ["row", "B", "N", "cache", "us", "GB/s", "of read"] + names + ["of best", "of flash", "time / dense"]
    print("\nK and V, %s, %d/%d heads, d = %d; speeds in GB/s of K and V\n" % tuple(
        report_rows[0][key] for key in ("type", "heads", "kv_heads", "dim")))
    print("| %s |\n|%s" % (" | ".join(heads), "---|" * len(heads)))
    for row in report_rows:
        records = row["contenders"]
        readable = max((records[name].get("gbps", 0) for name in MOVERS), default=0)
        dense = records.get("%s, dense" % OURS, {})
        for title, record in records.items():
            if not title.startswith(OURS):
                continue
            ms = record.get("ms")
            peers = [records[name]["ms"] for name in names if "ms" in records.get(name, {})]
            print("| %s |" % " | ".join(
                [row["kind"], str(row["batch"]), str(row["n"]), title[len(OURS) + 2:],
                 "%.1f" % (ms * 1e3) if ms else cell(record), cell(record), ratio(record.get("gbps"), readable)]
                + [cell(records.get(name, {"status": "none"})) for name in names]
                + [ratio(min(peers, default=None), ms), ratio(records.get(FLASH, {}).get("ms"), ms),
                   ratio(ms, dense.get("ms"))]))
