#!/usr/bin/env python3
"""The results of cpu_peers.py as Markdown tables, and as a picture of bars.

    cpu_report.py FILE.json [--png FILE.png]

FILE.json is a list: of each row and number of threads the machine's `gflops` and `gbytes`, how many processors `others`
had meanwhile, and of each contender its status, and `ms`, `gflops` and `gbytes` where it was timed.
"""
import argparse
import json
import os
import pathlib
import re
import struct
import sys
import zlib

OURS = "attn"
OTHERS = 0.15  # processors that other processes may have had while a row was measured
COLUMNS = (("SDPA", "sdpa"), ("FlexAttention", "flex"), ("ONNX Runtime", "ort-"))  # a heading, how names begin


# ---- the file ----

def load(path):
    if not path or not os.path.exists(path):
        return []
    with open(path, encoding="utf-8") as file:
        return json.load(file)


def save(path, results):
    """In one step, so that a run that is cut off loses one row only."""
    with open(path + ".new", "w", encoding="utf-8") as file:
        json.dump(results, file, indent=1)
        file.write("\n")
    os.replace(path + ".new", path)


def find(results, row, threads):
    return next((result for result in results if (result["row"], result["threads"]) == (row, threads)), None)


def disturbed(result):
    return result["others"] > OTHERS


def has(results, row, threads):
    """Whether the row is there and was measured undisturbed."""
    result = find(results, row, threads)
    return result is not None and not disturbed(result)


def merge(results, result, names):
    """`names` of all rows, in their order."""
    old = find(results, result["row"], result["threads"])
    if old is not None:
        results.remove(old)
    results.append(result)
    results.sort(key=lambda r: (names.index(r["row"]) if r["row"] in names else len(names), r["threads"]))


# ---- figures ----

def decodes(result):
    return result["row"].startswith("decode")


def share(result, contender):
    """Of what the machine did: of its multiply-adds, or of its memory when decoding."""
    unit = "gbytes" if decodes(result) else "gflops"
    return contender[unit] / result[unit]


def over_bound(result, contender):
    """The time in units of the larger of those to read K and V, and to multiply and add at 0.7 of the peak."""
    return 1 / max(contender["gbytes"] / result["gbytes"], contender["gflops"] / (0.7 * result["gflops"]))


def fastest(result, prefix):
    """(name, contender) of the fastest whose name begins so, or None."""
    timed = [(name, contender) for name, contender in result["contenders"].items()
             if name.startswith(prefix) and name != OURS and "ms" in contender]
    return min(timed, key=lambda pair: pair[1]["ms"], default=None)


def ratio(result):
    """Of the fastest peer's time to ours, or None."""
    best = fastest(result, "")
    return best and best[1]["ms"] / result["contenders"][OURS]["ms"]


def line(result):
    """For a terminal, when a row is done."""
    parts = []
    for name, contender in result["contenders"].items():
        text = "%.4g ms" % contender["ms"] if "ms" in contender else contender["status"]
        if "of_allowed_error" in contender:
            text += " (error %.2g of allowed, first launch %.1f s)" % (contender["of_allowed_error"],
                                                                      contender["first_s"])
        parts.append("  %-14s %s" % (name, contender.get("error", text)))
    best = ratio(result)
    head = "%s, threads: %d" % (result["row"], result["threads"])
    if best is not None:
        head += ", best peer / attn: %.2f" % best
    if "others" in result and disturbed(result):
        head += " (other processes had %.2f processors)" % result["others"]
    return "\n".join([head] + parts)


def table(results, columns):
    """`columns`: of our kernels, a heading and how to write it of a result and a contender."""
    headings = ["row", "threads", "ms"] + [heading for heading, _ in columns] + [name for name, _ in COLUMNS] + [
        "best / ours", "asked"]
    print("\n| %s |\n|%s" % (" | ".join(headings), "---|" * len(headings)))
    for result in results:
        ours, best = result["contenders"][OURS], ratio(result)
        cells = [result["row"], "%d" % result["threads"], "%.4g" % ours["ms"]]
        cells += [write(result, ours) for _, write in columns]
        for _, prefix in COLUMNS:
            peer = fastest(result, prefix)
            operator = " (%s)" % peer[0][len(prefix):] if peer is not None and prefix.endswith("-") else ""
            cells.append("-" if peer is None else "%.4g%s" % (peer[1]["ms"], operator))
        print("| %s |" % " | ".join(cells + ["-" if best is None else "%.2f" % best, "%.1f" % result["asked"]]))


def tables(results):
    for about in {json.dumps(result["about"], sort_keys=True): result["about"] for result in results}.values():
        print(", ".join("%s %s" % (name, value) for name, value in about.items()))
    dates = sorted(result["date"] for result in results)
    print("%s to %s; rows that other processes disturbed: %d" % (dates[0], dates[-1], sum(map(disturbed, results))))
    peaks = [(result["threads"], result["gflops"], result["gbytes"]) for result in results]
    for threads in sorted({peak[0] for peak in peaks}):
        flops, memory = (sorted(peak[n] for peak in peaks if peak[0] == threads) for n in (1, 2))
        print("%d thread(s): %.0f to %.0f GFLOP/s, %.1f to %.1f GB/s" % (threads, flops[0], flops[-1], memory[0],
                                                                         memory[-1]))
    table([result for result in results if not decodes(result)], (
        ("GFLOP/s", lambda result, ours: "%.1f" % ours["gflops"]),
        ("of peak", lambda result, ours: "%.2f" % share(result, ours))))
    table([result for result in results if decodes(result)], (
        ("GB/s", lambda result, ours: "%.1f" % ours["gbytes"]),
        ("of reading", lambda result, ours: "%.2f" % share(result, ours)),
        ("time / bound", lambda result, ours: "%.2f" % over_bound(result, ours))))


# ---- the picture ----

PALETTE = (0xffffff, 0x202020, 0xd8d8d8, 0x1f5fa8, 0xe08a2c, 0x58a058, 0x9467bd)
WHITE, BLACK, GRAY, FIRST = range(4)
SIZE = 2  # of letters; their cells are 6 by 10 dots
BAR, GAP, LEFT, PANEL, RATIO, TOP = 9, 14, 370, 360, 80, 84


class Picture:
    """Dots by their number in the palette. Letters are those of attnc's pictures."""

    def __init__(self, width, height):
        self.width, self.height, self.dots = width, height, bytearray(width * height)
        font = pathlib.Path(__file__).resolve().parents[2] / "runtime/attnc/picture_font.c"
        self.letters = {letter: rows.split() for letter, rows in
                        re.findall(r'/\* (.) \*/ "([.# ]+)"', font.read_text(encoding="ascii"))}

    def fill(self, x, y, width, height, color):
        for row in range(y, y + height):
            self.dots[row * self.width + x:row * self.width + x + width] = bytes([color]) * width

    def text(self, x, y, text, color=BLACK):
        for n, letter in enumerate(text):
            rows = self.letters.get(letter, self.letters["?"])
            for dy, row in enumerate(rows):
                for dx, dot in enumerate(row):
                    if dot == "#":
                        self.fill(x + (6 * n + dx) * SIZE, y + (dy + 2 * (letter in "gpqy,")) * SIZE, SIZE, SIZE, color)

    def png(self):
        def chunk(kind, data):
            return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        lines = b"".join(b"\0" + self.dots[y * self.width:(y + 1) * self.width] for y in range(self.height))
        return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", self.width, self.height, 8, 3, 0, 0, 0))
                + chunk(b"PLTE", b"".join(struct.pack(">I", color)[1:] for color in PALETTE))
                + chunk(b"IDAT", zlib.compress(lines, 9)) + chunk(b"IEND", b""))


def draw(results):
    """A panel for each number of threads, a bar for each contender: its share of what the machine did."""
    names = list(dict.fromkeys(result["row"] for result in results))
    counts = sorted({result["threads"] for result in results})
    contenders = [(OURS, OURS)] + list(COLUMNS)
    step = BAR * len(contenders) + GAP
    picture = Picture(LEFT + len(counts) * (PANEL + RATIO), TOP + step * len(names) + 10)
    x = 10
    for n, (name, _) in enumerate(contenders):
        picture.fill(x, 10, 14, 14, FIRST + n)
        picture.text(x + 20, 10, name)
        x += 20 + 12 * len(name) + 30
    picture.text(x, 10, "share of peak; decode: of reading")
    for panel, threads in enumerate(counts):
        x = LEFT + panel * (PANEL + RATIO)
        picture.text(x, 36, "%d thread%s" % (threads, "" if threads == 1 else "s"))
        picture.text(x + PANEL - 12, 36, "x best")
        for quarter in range(5):
            picture.fill(x + PANEL * quarter // 4, TOP - 4, 1, step * len(names), GRAY)
            picture.text(x + PANEL * quarter // 4 - (6 if quarter in (0, 4) else 24), 60,
                         ("0", ".25", ".5", ".75", "1")[quarter], BLACK)
        for k, row in enumerate(names):
            result, y = find(results, row, threads), TOP + k * step
            if panel == 0:
                picture.text(10, y + 2 * BAR - 9, row)
            if result is None:
                continue
            for n, (name, prefix) in enumerate(contenders):
                best = (OURS, result["contenders"][OURS]) if name == OURS else fastest(result, prefix)
                if best is not None:
                    width = max(1, round(PANEL * min(1.0, share(result, best[1]))))
                    picture.fill(x, y + n * BAR, width, BAR - 1, FIRST + n)
            if ratio(result) is not None:
                picture.text(x + PANEL + 12, y + 2 * BAR - 9, "%.2f" % ratio(result))
    return picture.png()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", metavar="FILE.json")
    parser.add_argument("--png", metavar="FILE.png")
    options = parser.parse_args()
    results = load(options.results)
    if not results:
        print("cpu_report.py: %s holds no results" % options.results, file=sys.stderr)
        return 1
    tables(results)
    if options.png:
        pathlib.Path(options.png).write_bytes(draw(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
