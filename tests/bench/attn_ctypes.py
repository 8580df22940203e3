"""libattn from Python, by ctypes and nothing else: what gpu_bench.py needs of runtime/include/attn/attn.h.

Run as a program it is a test of itself and of the library: memory of the device through the library's own functions,
a launch with a workspace, results against a direct evaluation.

    attn_ctypes.py LIBRARY [DEVICE]
"""
import ctypes
import math
import random
import struct
import sys
from ctypes import c_char_p, c_double, c_int, c_int32, c_int64, c_size_t, c_uint, c_uint8, c_uint16, c_uint32, \
    c_uint64, c_void_p

TYPES = {"any": 0, "f32": 1, "f16": 2, "bf16": 3, "i32": 4}
KERNELS = {"forward": 0, "decode": 1, "append": 2, "any": 3}
DLPACK_CODES = {"f32": (2, 32), "f16": (2, 16), "bf16": (4, 16), "i32": (0, 32), "i8": (0, 8), "u8": (1, 8)}
ERROR_SIZE = 4096


class DLTensor(ctypes.Structure):
    _fields_ = [("data", c_void_p), ("device_type", c_int32), ("device_id", c_int32), ("ndim", c_int32),
                ("code", c_uint8), ("bits", c_uint8), ("lanes", c_uint16), ("shape", ctypes.POINTER(c_int64)),
                ("strides", ctypes.POINTER(c_int64)), ("byte_offset", c_uint64)]


class DLDevice(ctypes.Structure):
    _fields_ = [("type", c_int32), ("id", c_int32)]


class ContextOptions(ctypes.Structure):
    _fields_ = [("size", c_size_t), ("device", c_char_p), ("threads", c_uint), ("code_cache_entries", c_uint),
                ("error", c_void_p), ("error_size", c_size_t), ("code_cache_directory", c_char_p)]


class Schedule(ctypes.Structure):
    _fields_ = [(name, c_uint32) for name in ("rows", "columns", "lanes", "row_vectors", "column_registers", "warps",
                                              "column_warps", "stages")]


class CompileOptions(ctypes.Structure):
    _fields_ = [("size", c_size_t), ("attention", c_char_p), ("type", c_int), ("kernel", c_int), ("sets", c_void_p),
                ("set_count", c_size_t), ("schedule", Schedule), ("read_import", c_void_p), ("user", c_void_p),
                ("diagnostics", c_void_p), ("diagnostics_format", c_int), ("error", c_void_p), ("error_size", c_size_t),
                ("decode_tasks", c_uint32), ("decode_part", c_uint32)]


class NamedTensor(ctypes.Structure):
    _fields_ = [("name", c_char_p), ("tensor", ctypes.POINTER(DLTensor))]


class Arguments(ctypes.Structure):
    _fields_ = [("size", c_size_t), ("q", c_void_p), ("k", c_void_p), ("v", c_void_p), ("o", c_void_p),
                ("inputs", c_void_p), ("input_count", c_size_t), ("outputs", c_void_p), ("output_count", c_size_t),
                ("params", c_void_p), ("param_count", c_size_t), ("query_starts", c_void_p), ("key_starts", c_void_p),
                ("stream", c_void_p), ("error", c_void_p), ("error_size", c_size_t), ("workspace", c_void_p),
                ("workspace_size", c_size_t), ("cache", c_void_p), ("cache_count", c_size_t),
                ("max_length", c_int64), ("shared_prefix", c_int64)]


class Variant(ctypes.Structure):
    _fields_ = [("size", c_size_t), ("type", c_int), ("kernel", c_int), ("queries", c_int64), ("on_cache", c_int),
                ("packed", c_int), ("shared_prefix", c_int)]


class Timings(ctypes.Structure):
    _fields_ = [(name, c_double) for name in ("check", "build", "optimize", "emit", "load")]


class AttnError(Exception):
    pass


class Library:
    def __init__(self, path):
        self.c = c = ctypes.CDLL(path)
        pointer = ctypes.POINTER
        for name, result, arguments in (
                ("attn_version", c_char_p, []),
                ("attn_status_text", c_char_p, [c_int]),
                ("attn_context_create", c_int, [pointer(ContextOptions), pointer(c_void_p)]),
                ("attn_context_free", None, [c_void_p]),
                ("attn_context_error", c_size_t, [c_void_p, c_void_p, c_size_t]),
                ("attn_context_device", DLDevice, [c_void_p]),
                ("attn_memory_allocate", c_int, [c_void_p, c_size_t, pointer(c_void_p)]),
                ("attn_memory_free", None, [c_void_p, c_void_p]),
                ("attn_memory_upload", c_int, [c_void_p, c_void_p, c_void_p, c_size_t, c_void_p]),
                ("attn_memory_download", c_int, [c_void_p, c_void_p, c_void_p, c_size_t, c_void_p]),
                ("attn_compile", c_int, [c_void_p, c_char_p, c_size_t, c_char_p, pointer(CompileOptions),
                                         pointer(c_void_p)]),
                ("attn_program_prepare", c_int, [c_void_p, c_int]),
                ("attn_program_prepare_for", c_int, [c_void_p, pointer(Variant)]),
                ("attn_program_timings", c_int, [c_void_p, c_int, pointer(Timings)]),
                ("attn_program_free", None, [c_void_p]),
                ("attn_launch", c_int, [c_void_p, pointer(Arguments)]),
                ("attn_workspace_size", c_int, [c_void_p, pointer(Arguments), pointer(c_size_t)]),
                ("attn_append", c_int, [c_void_p, pointer(Arguments)]),
                ("attn_append_workspace_size", c_int, [c_void_p, pointer(Arguments), pointer(c_size_t)]),
                ("attn_sync", c_int, [c_void_p, c_void_p])):
            function = getattr(c, name)
            function.restype, function.argtypes = result, arguments

    def version(self):
        return self.c.attn_version().decode()

    def fail(self, status, text):
        raise AttnError("%s: %s" % (self.c.attn_status_text(status).decode(), text.decode(errors="replace").strip()))


class Context:
    def __init__(self, library, device, threads=0):
        self.library, self.handle = library, c_void_p()
        error = ctypes.create_string_buffer(ERROR_SIZE)
        options = ContextOptions(ctypes.sizeof(ContextOptions), device.encode(), threads, 64, ctypes.addressof(error),
                                 ERROR_SIZE, None)
        status = library.c.attn_context_create(ctypes.byref(options), ctypes.byref(self.handle))
        if status != 0:
            library.fail(status, error.value)
        self.device = library.c.attn_context_device(self.handle)

    def check(self, status):
        if status != 0:
            error = ctypes.create_string_buffer(ERROR_SIZE)
            self.library.c.attn_context_error(self.handle, error, ERROR_SIZE)
            self.library.fail(status, error.value)

    def sync(self, stream=None):
        self.check(self.library.c.attn_sync(self.handle, stream))

    def close(self):
        self.library.c.attn_context_free(self.handle)

    # ---- memory of the device, for those who have no other ----

    def allocate(self, size):
        memory = c_void_p()
        self.check(self.library.c.attn_memory_allocate(self.handle, max(size, 1), ctypes.byref(memory)))
        return memory.value

    def upload(self, data):
        memory = self.allocate(len(data))
        self.check(self.library.c.attn_memory_upload(self.handle, memory, data, len(data), None))
        return memory

    def download(self, memory, size):
        data = ctypes.create_string_buffer(size)
        self.check(self.library.c.attn_memory_download(self.handle, data, memory, size, None))
        return data.raw

    def free(self, memory):
        self.library.c.attn_memory_free(self.handle, memory)

    def tensor(self, address, kind, shape, strides=None):
        """A view of memory that somebody else keeps. Strides are in elements."""
        sizes = (c_int64 * len(shape))(*shape)
        steps = None if strides is None else (c_int64 * len(shape))(*strides)
        code, bits = DLPACK_CODES[kind]
        return DLTensor(address, self.device.type, self.device.id, len(shape), code, bits, 1, sizes, steps, 0)


class Program:
    """A compiled spec. `schedule` overrides members of attn_schedule, decode_tasks and decode_part by name. What is
    compiled is what launches on k and v need, or for launches on a cache a variant: members of attn_variant by name."""

    def __init__(self, context, text, kind, schedule=None, variant=None):
        self.context, self.handle, self.kind = context, c_void_p(), kind
        c, source = context.library.c, text.encode()
        error = ctypes.create_string_buffer(ERROR_SIZE)
        options = CompileOptions(size=ctypes.sizeof(CompileOptions), type=TYPES[kind], kernel=KERNELS["any"],
                                 schedule=Schedule(**(schedule or {})), error=ctypes.addressof(error),
                                 error_size=ERROR_SIZE)
        status = c.attn_compile(context.handle, source, len(source), b"bench.attn", ctypes.byref(options),
                                ctypes.byref(self.handle))
        if status != 0:
            context.library.fail(status, error.value)
        try:
            if variant is None:
                context.check(c.attn_program_prepare(self.handle, TYPES[kind]))
            else:
                asked = Variant(size=ctypes.sizeof(Variant), type=TYPES[kind],
                                **dict(variant, kernel=KERNELS[variant.get("kernel", "any")]))
                context.check(c.attn_program_prepare_for(self.handle, ctypes.byref(asked)))
        except AttnError:
            self.close()
            raise

    def timings(self):
        timings = Timings()
        self.context.check(self.context.library.c.attn_program_timings(self.handle, TYPES[self.kind],
                                                                       ctypes.byref(timings)))
        return {name: getattr(timings, name) for name, _ in Timings._fields_}

    def close(self):
        self.context.library.c.attn_program_free(self.handle)


def named_tensors(tensors):
    """An array of attn_named_tensor, and what has to live as long."""
    rows = [NamedTensor(name.encode(), ctypes.pointer(tensor)) for name, tensor in (tensors or {}).items()]
    array = (NamedTensor * len(rows))(*rows)
    return array, (rows, array)


class Launch:
    """A launch to be made any number of times, of attn_append with `append`. A tensor that it does not take is None.
    `cache` and `inputs` are tensors by name. The tensors' memory and the workspace stay the caller's."""

    def __init__(self, program, q, k, v, o, inputs=None, stream=None, cache=None, max_length=0, shared_prefix=0,
                 append=False):
        c = program.context.library.c
        self.program = program
        self.function = c.attn_append if append else c.attn_launch
        self.size_function = c.attn_append_workspace_size if append else c.attn_workspace_size
        self.error = ctypes.create_string_buffer(ERROR_SIZE)
        given, kept_inputs = named_tensors(inputs)
        cached, kept_cache = named_tensors(cache)
        self.kept = (q, k, v, o, kept_inputs, kept_cache)

        def address(tensor):
            return None if tensor is None else ctypes.addressof(tensor)
        self.arguments = Arguments(
            size=ctypes.sizeof(Arguments), q=address(q), k=address(k), v=address(v), o=address(o),
            inputs=address(given) if inputs else None, input_count=len(given), stream=stream,
            error=ctypes.addressof(self.error), error_size=ERROR_SIZE, cache=address(cached) if cache else None,
            cache_count=len(cached), max_length=max_length, shared_prefix=shared_prefix)
        self.reference = ctypes.byref(self.arguments)

    def check(self, status):
        if status != 0:
            self.program.context.library.fail(status, self.error.value)

    def workspace_size(self):
        size = c_size_t()
        self.check(self.size_function(self.program.handle, self.reference, ctypes.byref(size)))
        return size.value

    def use_workspace(self, address, size):
        self.arguments.workspace, self.arguments.workspace_size = address, size

    def __call__(self):
        status = self.function(self.program.handle, self.reference)
        if status != 0:
            self.check(status)


# ---- the test ----

def direct(q, k, v, heads, groups, n, dim):
    """Causal attention in double precision. Lists of heads by rows by channels, flat."""
    out = []
    for head in range(heads):
        base = head // (heads // groups) * n * dim
        for i in range(n):
            row = q[(head * n + i) * dim:(head * n + i + 1) * dim]
            scores = [sum(a * b for a, b in zip(row, k[base + j * dim:base + (j + 1) * dim])) / math.sqrt(dim)
                      for j in range(i + 1)]
            top = max(scores)
            weights = [math.exp(s - top) for s in scores]
            total = sum(weights)
            out += [sum(w * v[base + j * dim + c] for j, w in enumerate(weights)) / total for c in range(dim)]
    return out


def try_type(context, kind):
    heads, groups, n, dim = 4, 2, 33, 16
    form = {"f32": "f", "f16": "e"}[kind]
    text = "attention t { heads q = %d, kv = %d\n dim %d\n type %s\n mask causal }" % (heads, groups, dim, kind)
    generator, data = random.Random(7), []
    for count in (heads, groups, groups):
        drawn = [generator.gauss(0, 1) for _ in range(count * n * dim)]
        packed = struct.pack("<%d%s" % (len(drawn), form), *drawn)
        data.append((packed, struct.unpack("<%d%s" % (len(drawn), form), packed)))
    wanted = direct(data[0][1], data[1][1], data[2][1], heads, groups, n, dim)
    size = len(wanted) * struct.calcsize(form)
    memory = [context.upload(packed) for packed, _ in data] + [context.upload(b"\xff" * size)] # o begins as NaN
    shapes = [[1, heads, n, dim], [1, groups, n, dim], [1, groups, n, dim], [1, heads, n, dim]]
    program = Program(context, text, kind)
    launch = Launch(program, *(context.tensor(m, kind, s) for m, s in zip(memory, shapes)))
    workspace = launch.workspace_size()
    if workspace > 0:
        memory.append(context.allocate(workspace))
        launch.use_workspace(memory[-1], workspace)
    launch()
    context.sync()
    got = struct.unpack("<%d%s" % (len(wanted), form), context.download(memory[3], size))
    worst = max(abs(a - b) if math.isfinite(a) else math.inf for a, b in zip(got, wanted))
    for address in memory:
        context.free(address)
    program.close()
    bound = {"f32": 1e-4, "f16": 1e-2}[kind]
    print("%s: largest error %.2g of %.2g" % (kind, worst, bound))
    return worst <= bound


def try_cache(context):
    """Appends a prompt to a cache of shuffled pages, and decodes its last token."""
    heads, groups, n, dim, page = 4, 2, 33, 16, 8
    text = "attention t { heads q = %d, kv = %d\n dim %d\n type f16\n mask causal\n cache paged(page = %d) }" % (
        heads, groups, dim, page)
    generator, pages = random.Random(9), -(-n // page)
    drawn = [[generator.gauss(0, 1) for _ in range(count * n * dim)] for count in (heads, groups, groups)]
    packed = [struct.pack("<%de" % len(x), *x) for x in drawn]
    q, k, v = ([x[0] for x in struct.iter_unpack("<e", data)] for data in packed)
    wanted = direct(q, k, v, heads, groups, n, dim)
    wanted = [x for head in range(heads) for x in wanted[(head * n + n - 1) * dim:(head * n + n) * dim]]
    last = struct.pack("<%de" % (heads * dim), *(x for head in range(heads)
                                                 for x in q[(head * n + n - 1) * dim:(head * n + n) * dim]))
    table = generator.sample(range(pages), pages)
    memory = [context.upload(data) for data in
              (last, packed[1], packed[2], b"\xff" * (heads * dim * 2), b"\xff" * (pages * page * groups * dim * 2),
               b"\xff" * (pages * page * groups * dim * 2), struct.pack("<i", n), struct.pack("<%di" % pages, *table))]
    rows, new, slots = [1, heads, 1, dim], [1, groups, n, dim], [pages, page, groups, dim]
    cache = {"k": context.tensor(memory[4], "f16", slots), "v": context.tensor(memory[5], "f16", slots),
             "lengths": context.tensor(memory[6], "i32", [1]),
             "page_table": context.tensor(memory[7], "i32", [1, pages])}
    program = Program(context, text, "f16", variant={"on_cache": 1, "queries": 1})
    given = context.tensor(memory[1], "f16", new), context.tensor(memory[2], "f16", new)
    launches = [Launch(program, None, *given, None, cache=cache, max_length=n, append=True),
                Launch(program, context.tensor(memory[0], "f16", rows), None, None,
                       context.tensor(memory[3], "f16", rows), cache=cache, max_length=n)]
    for launch in launches:
        size = launch.workspace_size()
        if size > 0:
            memory.append(context.allocate(size))
            launch.use_workspace(memory[-1], size)
        launch()
    context.sync()
    got = [x[0] for x in struct.iter_unpack("<e", context.download(memory[3], heads * dim * 2))]
    worst = max(abs(a - b) if math.isfinite(a) else math.inf for a, b in zip(got, wanted))
    for address in memory:
        context.free(address)
    program.close()
    print("f16, a cache: largest error %.2g of 0.01" % worst)
    return worst <= 1e-2


def main():
    if len(sys.argv) not in (2, 3):
        print("usage: attn_ctypes.py LIBRARY [DEVICE]", file=sys.stderr)
        return 2
    try:
        library = Library(sys.argv[1])
        context = Context(library, sys.argv[2] if len(sys.argv) == 3 else "cpu")
        fine = all([try_type(context, kind) for kind in ("f32", "f16")] + [try_cache(context)])
        context.close()
    except (AttnError, OSError) as error:
        print("attn_ctypes.py: %s" % error, file=sys.stderr)
        return 1
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
