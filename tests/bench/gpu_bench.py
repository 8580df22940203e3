#!/usr/bin/env python3
"""The kernels of this project beside PyTorch's scaled_dot_product_attention and FlexAttention, in one process; on
caches (gpu_decode.py) beside FlashInfer too, where it is installed.

Every contender gets the same random tensors. What it computes is checked before it is timed, and a contender whose
result is wrong is not timed. Rounds go over all contenders in changing order; the table has medians over rounds. Each
time is that of the device between two events around many launches, which go over several sets of tensors so that
nothing is found in the caches; a sleeping kernel in front lets the host run ahead, so that no host time is counted.
TFLOP/s count 4 D operations for each visible pair, whatever a kernel computes in vain; GB/s the bytes of K and V.

With --sweep only this project's kernels are timed, with many schedules for each row.
"""
import argparse
import contextlib
import datetime
import itertools
import json
import os
import re
import statistics
import subprocess
import sys
import time
import warnings

import torch

import attn_ctypes
import gpu_contenders
import gpu_decode
import gpu_rows
from gpu_contenders import FLASH, OURS, PEERS, Contender, Entry

BLOCK_MS = 12.0  # of launches between two events
SWEEP = {"rows": (64, 128), "columns": (32, 64, 128), "warps": (4, 8), "stages": (1, 2)}
DECODE_SWEEP = {"columns": (32, 64, 128), "warps": (4, 8), "stages": (1, 2), "decode_tasks": (216, 432, 864)}
SWEPT = "paged 64"  # the cache of these


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--library", required=True, help="libattn.so")
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--json", metavar="FILE", help="write it here, after every row")
    parser.add_argument("--rows", default="", metavar="REGEX", help='only rows like "causal bf16 d=128 N=4096"')
    parser.add_argument("--peers", default=",".join(PEERS), help="of %s; empty for none" % ",".join(PEERS))
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--quick", action="store_true", help="few rows, seven rounds")
    parser.add_argument("--limit", type=float, default=0, metavar="SECONDS", help="begin no row after so long")
    parser.add_argument("--shrink", type=int, default=1, metavar="N", help="divide the sizes, to try this program out")
    parser.add_argument("--autotune", action="store_true", help="let FlexAttention try its own schedules")
    parser.add_argument("--sweep", action="store_true", help="schedules instead of peers")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    unknown = set(filter(None, options.peers.split(","))) - set(PEERS)
    if unknown:
        parser.error("no such peer: %s" % ", ".join(sorted(unknown)))
    if options.shrink < 1 or options.rounds < 1:
        parser.error("--shrink and --rounds are at least 1")
    if options.quick:
        options.rounds = min(options.rounds, 7)
    return options


# ---- the device ----

class Clock:
    """Times blocks of launches, on a GPU by events."""

    def __init__(self, device):
        self.cuda = device.type == "cuda"
        self.device = device
        if self.cuda:
            self.events = [torch.cuda.Event(enable_timing=True) for _ in range(2)]

    def sync(self):
        if self.cuda:
            torch.cuda.synchronize(self.device)

    def block(self, contender, count, ahead_ms):
        """Milliseconds a launch. `ahead_ms`: what the host needs to enqueue them all."""
        with contender.environment():
            if not self.cuda:
                begin = time.perf_counter()
                self.enqueue(contender, count)
                return (time.perf_counter() - begin) * 1e3 / count
            if ahead_ms > 0 and hasattr(torch.cuda, "_sleep"):
                torch.cuda._sleep(int(min(ahead_ms, 200.0) * 2e6))
            self.events[0].record()
            self.enqueue(contender, count)
            self.events[1].record()
            self.events[1].synchronize()
            return self.events[0].elapsed_time(self.events[1]) / count

    @staticmethod
    def enqueue(contender, count):
        launches = contender.launches
        for n in range(count):
            launches[n % len(launches)]()

    def plan(self, contender):
        """How many launches make a block, and how far ahead the host must be."""
        with contender.environment():
            for launch in contender.launches:
                launch()
        self.sync()
        once = min(self.block(contender, len(contender.launches), 0) for _ in range(2))
        count = min(400, max(1, round((BLOCK_MS if self.cuda else 1.0) / max(once, 1e-4))))
        count = -(-count // len(contender.launches)) * len(contender.launches)
        begin = time.perf_counter()
        with contender.environment():
            self.enqueue(contender, count)
        enqueued = (time.perf_counter() - begin) * 1e3
        self.sync()
        return count, 1.5 * enqueued


def nvidia_smi(device, *fields):
    if device.type != "cuda":
        return {}
    try:
        line = subprocess.run(["nvidia-smi", "-i", str(device.index), "--format=csv,noheader,nounits",
                               "--query-gpu=" + ",".join(fields)], capture_output=True, text=True, timeout=10,
                              check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return {}
    return dict(zip(fields, (value.strip() for value in line.strip().split(","))))


def matmul_tflops(device):
    """What the device's library of matrix products does, as a measure of its state."""
    n, repeat = (8192, 20) if device.type == "cuda" else (256, 2)
    a, b = (torch.randn(n, n, device=device, dtype=torch.bfloat16) for _ in range(2))
    clock = Clock(device)
    contender = Contender([lambda: torch.mm(a, b)])
    clock.block(contender, 3, 0)
    return 2 * n ** 3 / (clock.block(contender, repeat, 1.0) * 1e-3) / 1e12


def describe(device, library):
    about = {"date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
             "attn": library.version(), "torch": torch.__version__, "cuda": torch.version.cuda,
             "device": "cpu", "argv": sys.argv[1:]}
    with contextlib.suppress(ImportError):
        import triton
        about["triton"] = triton.__version__
    if device.type == "cuda":
        p = torch.cuda.get_device_properties(device)
        about.update(device=p.name, capability="%d.%d" % (p.major, p.minor), multiprocessors=p.multi_processor_count,
                     memory=p.total_memory, l2=getattr(p, "L2_cache_size", 0), cudnn=torch.backends.cudnn.version())
        about.update(nvidia_smi(device, "driver_version", "clocks.max.sm", "power.limit"))
    return about


def first_line(error):
    text = str(error).strip().splitlines()
    return "%s: %s" % (type(error).__name__, text[0][:300] if text else "")


# ---- rows ----

class Bench:
    def __init__(self, options):
        self.options, self.device = options, torch.device(options.device)
        if self.device.type == "cuda":
            if not torch.cuda.is_available():
                raise RuntimeError("torch sees no GPU")
            self.device = torch.device("cuda", self.device.index or 0)
            torch.cuda.set_device(self.device)
            torch.cuda.init()
        torch.backends.cuda.matmul.allow_tf32 = False  # the reference is float32
        torch.set_float32_matmul_precision("highest")
        self.begin = time.monotonic()
        self.library = attn_ctypes.Library(options.library)
        self.context = attn_ctypes.Context(self.library, str(self.device))
        self.clock = Clock(self.device)
        self.report = describe(self.device, self.library)
        self.report.update(matmul_tflops=[matmul_tflops(self.device)], rows=[], too_large=[], not_reached=[])

    def make_sets(self, row):
        """As many as take twice the cache, and no fewer than the row asks for."""
        sets = [row.inputs(self.options.seed, self.device)]
        wanted = -(-2 * self.report.get("l2", 0) // sets[0].bytes())
        more = range(1, min(16, max(row.least_sets, wanted)))
        return sets + [row.inputs(self.options.seed + n, self.device) for n in more]

    def entries(self, row, sets):
        peers = self.options.peers.split(",")
        if isinstance(row, gpu_decode.Row):
            return gpu_decode.entries(row, sets, self.context, peers, self.options.shrink)
        return gpu_contenders.entries(row, sets, self.context, peers, self.options.autotune)

    def admit(self, entry, record):
        """A contender that computes what it should, or None; `record` says why not."""
        contender = None
        try:
            contender = entry.make()
            with contender.environment():
                outs = [launch() for launch in contender.launches]
            self.clock.sync()
            if entry.ours:
                self.context.sync()
            if entry.worst is not None:
                record["of_allowed_error"] = min(entry.worst(outs[0]), 1e9)  # JSON knows no infinity
            finite = all(bool(torch.isfinite(out).all()) for out in outs if isinstance(out, torch.Tensor))
            record["status"] = "ok" if finite and record.get("of_allowed_error", 0) <= 1 else "wrong"
        except NotImplementedError:
            record["status"] = "none"
        except Exception as error:  # a peer that refuses a row must not end the run
            refused = re.search("No (available kernel|viable backend)", str(error))  # PyTorch's words
            record.update(status="none" if refused else "failed", error=first_line(error))
        if record["status"] == "ok":
            return contender
        if contender is not None:
            contender.close()
        return None

    def time_all(self, entries, contenders, records):
        if not contenders:
            return
        names = list(contenders)
        plans = {name: self.clock.plan(contenders[name]) for name in names}
        times = {name: [] for name in names}
        for n in range(self.options.rounds):
            order = names[n % len(names):] + names[:n % len(names)]
            for name in order if n % 2 == 0 else reversed(order):
                times[name].append(self.clock.block(contenders[name], *plans[name]))
        for name, taken in times.items():
            ms, work = statistics.median(taken), entries[name].work
            records[name].update(ms=ms, ms_least=min(taken), ms_most=max(taken), launches=plans[name][0])
            if "flops" in work:
                records[name]["tflops"] = work["flops"] / ms / 1e9
            else:
                records[name].update(bytes=work["bytes"], gbps=work["bytes"] / ms / 1e6)

    def run_row(self, row):
        sets = self.make_sets(row)
        entries = self.entries(row, sets)
        records = {name: {"ours": entry.ours} for name, entry in entries.items()}
        contenders = {}
        for name, entry in entries.items():
            contender = self.admit(entry, records[name])
            if contender is not None:
                contenders[name] = contender
                if contender.compile_ms is not None:
                    records[name]["compile_ms"] = contender.compile_ms
        self.time_all(entries, contenders, records)
        for contender in contenders.values():
            contender.close()
        self.report["rows"].append({"name": row.full_name, **vars(row), "sets": len(sets), "contenders": records,
                                    **nvidia_smi(self.device, "clocks.sm", "power.draw", "temperature.gpu")})
        return records

    def schedules(self, row, sets):
        """An entry for each schedule; none where the row has no schedule of its own to look for."""
        decodes = isinstance(row, gpu_decode.Row)
        if decodes and row.kind != "decode":
            return
        title = "%s, %s" % (OURS, SWEPT) if decodes else OURS
        entry = self.entries(row, sets)[title]
        caches = [gpu_decode.Cache(row, inputs, SWEPT) for inputs in sets] if decodes else None
        fields = DECODE_SWEEP if decodes else SWEEP
        for schedule in [{}] + [dict(zip(fields, chosen)) for chosen in itertools.product(*fields.values())]:
            def make(schedule=schedule):
                if decodes:
                    return gpu_decode.make_ours(row, sets, caches, SWEPT, self.context, schedule=schedule)
                return gpu_contenders.make_ours(row, sets, self.context, schedule)
            yield schedule, Entry(True, make, entry.worst, entry.work)

    def sweep_row(self, row):
        sets = self.make_sets(row)
        results = []
        for schedule, entry in self.schedules(row, sets):
            record = {"schedule": schedule}
            contender = self.admit(entry, record)
            results.append(record)
            if contender is not None:
                self.time_all({OURS: entry}, {OURS: contender}, {OURS: record})
                contender.close()
        results.sort(key=lambda record: record.get("ms", float("inf")))
        self.report["rows"].append({"name": row.full_name, **vars(row), "sweep": results})
        for record in results:
            name = " ".join("%s=%d" % item for item in record["schedule"].items()) or "(default)"
            said = "%8.1f TFLOP/s" % record["tflops"] if "tflops" in record else \
                "%8.1f GB/s" % record["gbps"] if "gbps" in record else record.get("error", record["status"])
            print("%-44s %-44s %s" % (row.full_name, name, said))

    def run(self):
        sizes = self.options.quick, self.options.shrink
        chosen = [row for row in gpu_decode.rows(*sizes) + gpu_rows.rows(*sizes)
                  if re.search(self.options.rows, row.full_name)]
        for n, row in enumerate(chosen):
            if self.options.limit and time.monotonic() - self.begin > self.options.limit:
                self.report["not_reached"] = [row.full_name for row in chosen[n:]]
                break
            print("%d of %d: %s" % (n + 1, len(chosen), row.full_name), file=sys.stderr, flush=True)
            try:
                if self.options.sweep:
                    self.sweep_row(row)
                else:
                    self.run_row(row)
            except torch.cuda.OutOfMemoryError:
                self.report["too_large"].append(row.full_name)
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            self.write()
        self.report["matmul_tflops"].append(matmul_tflops(self.device))
        self.write()
        return self.report

    def write(self):
        if not self.options.json:
            return
        with open(self.options.json + ".new", "w") as file:
            json.dump(self.report, file, indent=1)
            file.write("\n")
        os.replace(self.options.json + ".new", self.options.json)


# ---- the table ----

def cell(record):
    if "tflops" in record:
        return "%.0f" % record["tflops"] if record["tflops"] >= 10 else "%.3g" % record["tflops"]
    return {"none": "-", "wrong": "wrong", "failed": "failed"}[record["status"]]


def ratio(ours, others):
    speeds = [record["tflops"] for record in others if "tflops" in record]
    return "%.2f" % (ours["tflops"] / max(speeds)) if speeds and "tflops" in ours else "-"


def print_forward(rows):
    names = list(rows[0]["contenders"])
    heads = ["row", "type", "d", "N", "B", "H"] + names + ["of best", "of flash"]
    print("| %s |\n|%s" % (" | ".join(heads), "---|" * len(heads)))
    for row in rows:
        records = row["contenders"]
        ours, peers = records[OURS], [records[name] for name in names if name != OURS]
        title = row["kind"] + (" %d" % row["window"] if row["window"] else "")
        grouped = str(row["heads"]) if row["heads"] == row["kv_heads"] else "%d/%d" % (row["heads"], row["kv_heads"])
        print("| %s |" % " | ".join([title, row["type"], str(row["dim"]), str(row["n"]), str(row["batch"]), grouped]
                                    + [cell(records[name]) for name in names]
                                    + [ratio(ours, peers), ratio(ours, [records.get(FLASH, {})])]))


def print_tables(report):
    print("%s, %s, driver %s, CUDA %s, cuDNN %s, PyTorch %s, Triton %s, attn %s; bf16 matmul %s TFLOP/s\n" % (
        report["date"], report["device"], report.get("driver_version", "-"), report["cuda"], report.get("cudnn", "-"),
        report["torch"], report.get("triton", "-"), report["attn"],
        " to ".join("%.3g" % speed for speed in report["matmul_tflops"])))
    forward = [row for row in report["rows"] if OURS in row["contenders"]]
    decode = [row for row in report["rows"] if OURS not in row["contenders"]]
    if forward:
        print_forward(forward)
    if decode:
        gpu_decode.print_table(decode)
    for title, names in (("too large for the device's memory", "too_large"), ("not reached in the time", "not_reached")):
        if report[names]:
            print("\n%s: %s" % (title, "; ".join(report[names])))


def main():
    options = parse()
    warnings.filterwarnings("ignore")  # of peers, about rows that they refuse
    try:
        bench = Bench(options)
    except (attn_ctypes.AttnError, OSError, RuntimeError) as error:
        print("gpu_bench.py: %s" % error, file=sys.stderr)
        return 2
    report = bench.run()
    bench.context.close()
    if not report["rows"]:
        print("gpu_bench.py: no row was timed", file=sys.stderr)
        return 2
    if options.sweep:
        return 0
    print_tables(report)
    bad = [("%s, %s" % (row["name"], name), record) for row in report["rows"]
           for name, record in row["contenders"].items() if record["ours"] and record["status"] != "ok"]
    for name, record in bad:
        print("gpu_bench.py: %s: %s %s" % (name, record["status"], record.get("error", "(%.3g of the allowed error)"
              % record.get("of_allowed_error", float("nan")))), file=sys.stderr)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
