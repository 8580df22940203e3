"""The contenders of gpu_bench.py on tensors q, k and v, and what all contenders are."""
import contextlib
import dataclasses
import statistics
import typing

import torch

import attn_ctypes
import gpu_rows

try:
    from torch.nn.attention import SDPBackend, sdpa_kernel
except ImportError:  # before 2.3
    SDPBackend = sdpa_kernel = None
try:
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention
except ImportError:  # before 2.5
    create_block_mask = flex_attention = None

OURS, FLASH = "attn", "flash"
SDPA = (FLASH, "cudnn", "efficient")
PEERS = SDPA + ("flex", "flashinfer")


class Contender:
    """One launch for each set of tensors, each of which returns the output."""

    def __init__(self, launches, environment=contextlib.nullcontext, close=None, compile_ms=None):
        self.launches, self.environment = launches, environment
        self.close = close or (lambda: None)
        self.compile_ms = compile_ms  # of this project's


@dataclasses.dataclass(frozen=True)
class Entry:
    """A contender before it is made. What it computes is admitted by `worst`, a function of its first output: the error
    in units of what is allowed; None where there is nothing to check."""
    ours: bool
    make: typing.Callable[[], Contender]
    worst: typing.Optional[typing.Callable[[torch.Tensor], float]]
    work: dict  # "flops" or "bytes" of a launch


def view(context, t, kind):
    """A tensor of PyTorch as one of the library's; `kind` is what its elements stand for."""
    return context.tensor(t.data_ptr(), kind, list(t.shape), list(t.stride()))


def stream_of(t):
    return torch.cuda.current_stream(t.device).cuda_stream if t.is_cuda else None


def with_workspace(launch, out):
    """The launch with a workspace of its own, as a function that returns `out`."""
    size = launch.workspace_size()
    workspace = torch.empty(max(size, 1), dtype=torch.uint8, device=out.device)
    if size > 0:
        launch.use_workspace(workspace.data_ptr(), size)

    def run(launch=launch, out=out, kept=workspace):
        launch()
        return out
    return run


def make_ours(row, sets, context, schedule=None):
    program = attn_ctypes.Program(context, row.spec(), row.type, schedule)
    launches = []
    for inputs in sets:
        named = {} if inputs.doc is None else {"doc": view(context, inputs.doc, "i32")}
        tensors = [view(context, t, row.type) for t in (inputs.q, inputs.k, inputs.v, inputs.o)]
        launch = attn_ctypes.Launch(program, *tensors, named, stream_of(inputs.q))
        launches.append(with_workspace(launch, inputs.o))
    return Contender(launches, close=program.close, compile_ms=program.timings())


def sdpa_backend(name):
    if sdpa_kernel is None:
        raise RuntimeError("torch %s has no sdpa_kernel" % torch.__version__)
    kinds = {FLASH: SDPBackend.FLASH_ATTENTION, "efficient": SDPBackend.EFFICIENT_ATTENTION,
             "cudnn": getattr(SDPBackend, "CUDNN_ATTENTION", None)}
    if kinds[name] is None:
        raise RuntimeError("torch %s has no such backend" % torch.__version__)
    return lambda: sdpa_kernel(kinds[name])


def make_sdpa(row, sets, name):
    environment = sdpa_backend(name)
    grouped = {} if row.heads == row.kv_heads else {"enable_gqa": True}
    launches, mask = [], None
    for inputs in sets:
        if inputs is sets[0] or row.kind == "document":  # else the same for all
            mask = gpu_rows.dense_mask(row, inputs)
        if mask is False or (mask is not None and name == FLASH):
            raise NotImplementedError

        def run(inputs=inputs, mask=mask):
            return torch.nn.functional.scaled_dot_product_attention(
                inputs.q, inputs.k, inputs.v, attn_mask=mask, is_causal=row.kind == "causal", **grouped)
        launches.append(run)
    return Contender(launches, environment)


def make_flex(row, sets, autotune):
    if flex_attention is None:
        raise RuntimeError("torch %s has no FlexAttention" % torch.__version__)
    attend = flex_attention
    if sets[0].q.is_cuda:
        torch._dynamo.reset()  # or it gives up on compiling after some rows
        attend = torch.compile(flex_attention, dynamic=False,
                               mode="max-autotune-no-cudagraphs" if autotune else "default")
    grouped = {} if row.heads == row.kv_heads else {"enable_gqa": True}
    launches, score_mod, block_mask = [], None, None
    for inputs in sets:
        if inputs is sets[0] or row.kind == "document":  # else the same for all
            mask_mod, score_mod = gpu_rows.flex_functions(row, inputs)
            if mask_mod is not None:
                batch = row.batch if row.kind == "document" else None
                block_mask = create_block_mask(mask_mod, batch, None, row.n, row.n, device=str(inputs.q.device))

        def run(inputs=inputs, score_mod=score_mod, block_mask=block_mask):
            return attend(inputs.q, inputs.k, inputs.v, score_mod=score_mod, block_mask=block_mask, **grouped)
        launches.append(run)
    return Contender(launches)


def entries(row, sets, context, peers, autotune):
    """Of a row of gpu_rows.py, by name."""
    work = {"flops": statistics.mean(row.flops(inputs.lengths) for inputs in sets)}
    worst = gpu_rows.Errors(row, sets[0]).worst
    made = {OURS: Entry(True, lambda: make_ours(row, sets, context), worst, work)}
    for name in SDPA:
        made[name] = Entry(False, lambda name=name: make_sdpa(row, sets, name), worst, work)
    made["flex"] = Entry(False, lambda: make_flex(row, sets, autotune), worst, work)
    return {name: entry for name, entry in made.items() if entry.ours or name in peers}
