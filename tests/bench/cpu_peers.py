#!/usr/bin/env python3
"""The host target beside other programs on the CPU: PyTorch's scaled_dot_product_attention and FlexAttention, and
ONNX Runtime's MultiHeadAttention, GroupQueryAttention and Attention, in one process.

Every contender gets the same random tensors. What it computes is checked before it is timed, and a contender whose
result is wrong is not timed. Rounds go over all contenders in changing order; the table has medians over rounds. The
machine's multiply-add peak and read bandwidth are measured before and after each row; the larger figures count. So is
the time that other processes took meanwhile.

Peers that are not installed are left out. cpu_peers.sh makes a virtual environment with all of them.
"""
import argparse
import datetime
import json
import os
import platform
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
import warnings

try:
    import numpy as np
except ImportError:
    sys.exit("cpu_peers.py: needs numpy; cpu_peers.sh makes an environment that has it")

import attn_ctypes
import cpu_onnx
import cpu_report
import cpu_rows

try:
    import torch
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention
except ImportError as error:
    torch, torch_error = None, error

OURS = "attn"
PEERS = ("sdpa", "flex") + cpu_onnx.OPERATORS
BLOCK_MS = 20.0  # of launches that are timed at once
WARM_MS = 50.0  # launches that are shorter follow one that is not timed
LEAST_ROUNDS = 3
SLOW = 1.8  # times the fastest: what is slower takes part in every third round only


def numbers(text):
    values = [int(word) for word in text.split(",")]
    if min(values) < 1:
        raise ValueError
    return values


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", default="build/release", metavar="DIR", help="where attnc and libattn.so are")
    parser.add_argument("--json", metavar="FILE", help="results, written after every row; replaces rows there")
    parser.add_argument("--rows", default="", metavar="REGEX", help='only rows like "causal f32 d=128 N=4096"')
    parser.add_argument("--threads", type=numbers, default="1,2", metavar="N,...", help="1,2 unless told")
    parser.add_argument("--peers", default=",".join(PEERS), help='of %s; "" for none' % ",".join(PEERS))
    parser.add_argument("--rounds", type=int, default=9, help="9 unless told; 0 only checks")
    parser.add_argument("--seconds", type=float, default=15, help="for the rounds of a row; at least %d" % LEAST_ROUNDS)
    parser.add_argument("--limit", type=float, default=0, metavar="SECONDS", help="begin no row after so long")
    parser.add_argument("--missing", action="store_true", help="only rows that the file has not, or disturbed")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    options.peers = list(filter(None, options.peers.split(",")))
    unknown = set(options.peers) - set(PEERS)
    if unknown:
        parser.error("no such peer: %s" % ", ".join(sorted(unknown)))
    if options.rounds < 0:
        parser.error("--rounds is at least 0")
    return options


# ---- contenders: launch() computes, result() gives [B, H, N, D] as cpu_rows.stored has it ----

class Ours:
    def __init__(self, row, inputs, library, threads):
        self.context = attn_ctypes.Context(library, "cpu", threads)
        self.program = attn_ctypes.Program(self.context, row.spec(), row.type)

        def view(t, kind=row.type):
            return self.context.tensor(t.ctypes.data, kind, list(t.shape))
        self.inputs = inputs
        self.launch = attn_ctypes.Launch(
            self.program, *(view(t) for t in (inputs.q, inputs.k, inputs.v, inputs.o)),
            {name: view(t, "i32") for name, t in inputs.named.items()})
        self.launch()  # compiles, where it is decoding

    def result(self):
        return self.inputs.o

    def close(self):
        self.program.close()
        self.context.close()


class Torch:
    """A function of torch tensors."""

    def __init__(self, row, function):
        self.row, self.function, self.out = row, function, None

    def launch(self):
        self.out = self.function()

    def result(self):
        out = self.out.reshape(self.row.batch, self.row.heads, self.row.queries, self.row.dim).contiguous()
        return out.view(torch.uint16).numpy() if out.dtype == torch.bfloat16 else out.numpy()

    def close(self):
        self.out = None


def to_torch(values):
    tensor = torch.from_numpy(values)
    return tensor.view(torch.bfloat16) if values.dtype == np.uint16 else tensor


def make_sdpa(row, inputs):
    if row.kind == "softcap":
        raise NotImplementedError
    q, k, v = (to_torch(t) for t in (inputs.q, inputs.k, inputs.v))
    mask = None if row.kind in ("full", "causal", "decode") else to_torch(cpu_rows.bias(row, inputs))
    if row.kind == "decode":  # the heads of a group as query rows: 37 ms where enable_gqa takes 64 (f32)
        q = q.view(row.batch, row.kv_heads, row.heads // row.kv_heads, row.dim)
    return Torch(row, lambda: torch.nn.functional.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, is_causal=row.kind == "causal"))


def make_flex(row, inputs):
    torch._dynamo.reset()  # or it gives up on compiling after some rows
    attend = torch.compile(flex_attention, dynamic=False)
    q, k, v = (to_torch(t) for t in (inputs.q, inputs.k, inputs.v))
    mask, score = cpu_rows.functions(row, inputs, torch, torch.from_numpy)
    blocks = None if mask is None else create_block_mask(mask, None, None, row.n, row.n, device="cpu")
    grouped = {} if row.heads == row.kv_heads else {"enable_gqa": True}
    return Torch(row, lambda: attend(q, k, v, score_mod=score, block_mask=blocks, **grouped))


def first_line(error):
    text = str(error).strip().splitlines()
    return "%s: %s" % (type(error).__name__, text[0][:300] if text else "")


# ---- the machine ----

class Machine:
    """What it can do, from attnc bench: {threads: (GFLOP/s, GB/s)} of the last time."""

    def __init__(self, attnc):
        self.attnc, self.last = attnc, {}

    def measure(self, threads):
        with tempfile.NamedTemporaryFile("w", suffix=".attn") as spec:
            spec.write("attention least { heads 1\n dim 8\n type f32 }")
            spec.flush()
            command = [self.attnc, "bench", spec.name, "--shape", "B=1,NQ=1,NK=1", "--repeat", "1", "--json",
                       "--threads", str(threads)]
            text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        for peak in json.loads(text)["machine"]:
            self.last[peak["threads"]] = (peak["gflops"], peak["gbytes"])

    def best(self, threads):
        """Measures anew; the larger figures of this time and of the last."""
        before = self.last.get(threads, (0, 0))
        self.measure(threads)
        return [max(pair) for pair in zip(before, self.last[threads])]


def processor_seconds():
    """Of all processes, and what the host of the machine took away; and of this one. Zeros where that is unknown."""
    try:
        with open("/proc/stat", encoding="ascii") as lines:
            user, nice, system, _, _, interrupts, soft, stolen = map(int, lines.readline().split()[1:9])
    except (OSError, ValueError):
        return 0, 0
    return (user + nice + system + interrupts + soft + stolen) / os.sysconf("SC_CLK_TCK"), sum(os.times()[:4])


def processor():
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            return re.search(r"^model name\s*: (.*)$", lines.read(), re.M).group(1).strip()
    except (OSError, AttributeError):
        return platform.processor() or platform.machine()


# ---- rows ----

class Bench:
    def __init__(self, options):
        self.options, self.begin = options, time.monotonic()
        self.library = attn_ctypes.Library(os.path.join(options.build, "libattn.so"))
        self.machine = Machine(os.path.join(options.build, "attnc"))
        self.makers = {"sdpa": make_sdpa, "flex": make_flex}
        self.about = {"processor": processor(), "attn": self.library.version(), "numpy": np.__version__}
        missing = []
        if torch is None:
            missing.append("PyTorch 2.5 or newer with FlexAttention (%s)" % torch_error)
        else:
            self.about["torch"] = torch.__version__
        if cpu_onnx.why_not is not None:
            missing.append("ONNX Runtime (%s)" % cpu_onnx.why_not)
        else:
            self.about["onnxruntime"] = cpu_onnx.version()
        for name in missing:
            print("cpu_peers.py: goes on without %s" % name, file=sys.stderr)
        self.peers = [name for name in options.peers
                      if (torch is not None if name in self.makers else cpu_onnx.why_not is None)]

    def make(self, name, row, inputs, threads):
        if name == OURS:
            return Ours(row, inputs, self.library, threads)
        if name in self.makers:
            torch.set_num_threads(threads)
            return self.makers[name](row, inputs)
        return cpu_onnx.Contender(name, row, inputs, threads)

    def admit(self, name, row, inputs, threads, errors, record):
        """A contender that computes what it should, or None; `record` says why not."""
        contender, begin = None, time.monotonic()
        try:
            contender = self.make(name, row, inputs, threads)
            contender.launch()
            record["first_s"] = time.monotonic() - begin
            record["of_allowed_error"] = min(errors.worst(contender.result()), 1e9)  # JSON knows no infinity
            record["status"] = "ok" if record["of_allowed_error"] <= 1 else "wrong"
        except NotImplementedError:
            record["status"] = "none"
        except Exception as error:  # a peer that refuses a row must not end the run
            if name == OURS:
                raise
            record.update(status="failed", error=first_line(error))
        if record["status"] == "ok":
            return contender
        if name == OURS:
            raise attn_ctypes.AttnError("%s: wrong by %.3g times what is allowed" % (row.name,
                                                                                   record["of_allowed_error"]))
        if contender is not None:
            contender.close()
        return None

    @staticmethod
    def block(contender, count, warm=True):
        """Milliseconds a launch. Threads of the contender before may spin on for some time after its work."""
        time.sleep(0.005)
        if warm:
            contender.launch()
        begin = time.perf_counter()
        for _ in range(count):
            contender.launch()
        return (time.perf_counter() - begin) * 1e3 / count

    def time(self, contenders):
        once = {name: self.block(contender, 1) for name, contender in contenders.items()}
        times = {name: [] for name in contenders}
        order, shuffle, begin = list(contenders), random.Random(self.options.seed), time.monotonic()
        slow = SLOW * min(once.values())
        for done in range(self.options.rounds):
            if done >= LEAST_ROUNDS and time.monotonic() - begin > self.options.seconds:
                break
            shuffle.shuffle(order)
            for name in order:
                if once[name] > slow and done % LEAST_ROUNDS != 0:
                    continue
                times[name].append(self.block(contenders[name], max(1, round(BLOCK_MS / once[name])),
                                              once[name] < WARM_MS))
        return times

    def row(self, row, inputs, errors, threads):
        records = {name: {} for name in [OURS] + self.peers}
        contenders = {name: self.admit(name, row, inputs, threads, errors, record) for name, record in records.items()}
        contenders = {name: contender for name, contender in contenders.items() if contender is not None}
        result = {"row": row.name, "threads": threads, "asked": row.asked, "about": self.about,
                  "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
                  "contenders": records}
        if self.options.rounds > 0:
            if threads not in self.machine.last:
                self.machine.measure(threads)
            begin, (all_before, own_before) = time.monotonic(), processor_seconds()
            times = self.time(contenders)
            all_after, own_after = processor_seconds()
            others = (all_after - all_before) - (own_after - own_before)
            result["others"] = max(0.0, others / (time.monotonic() - begin))
            result["gflops"], result["gbytes"] = self.machine.best(threads)
            flops = 4 * row.dim * row.heads * cpu_rows.visible_pairs(row, inputs)
            moved = inputs.q.nbytes + inputs.k.nbytes + inputs.v.nbytes + inputs.o.nbytes
            for name, values in times.items():
                ms = statistics.median(values)
                records[name].update(ms=ms, least=min(values), most=max(values), rounds=len(values),
                                     gflops=flops / ms * 1e-6, gbytes=moved / ms * 1e-6)
        for contender in contenders.values():
            contender.close()
        return result

    def run(self, results):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for row in cpu_rows.rows():
                if not re.search(self.options.rows, row.name):
                    continue
                wanted = [threads for threads in self.options.threads
                          if not (self.options.missing and cpu_report.has(results, row.name, threads))]
                inputs = errors = None
                for threads in wanted:
                    if 0 < self.options.limit < time.monotonic() - self.begin:
                        return
                    if inputs is None:
                        inputs = cpu_rows.Inputs(row, self.options.seed)
                        errors = cpu_rows.Errors(row, inputs)
                    yield self.row(row, inputs, errors, threads)


def main():
    options = parse()
    results, names = cpu_report.load(options.json), [row.name for row in cpu_rows.rows()]
    try:
        bench = Bench(options)
        for result in bench.run(results):
            print(cpu_report.line(result), flush=True)
            cpu_report.merge(results, result, names)
            if options.json and options.rounds > 0:
                cpu_report.save(options.json, results)
    except (attn_ctypes.AttnError, OSError, subprocess.SubprocessError) as error:
        print("cpu_peers.py: %s" % error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
