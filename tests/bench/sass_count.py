#!/usr/bin/env python3
"""Counts the instructions of the loops around tensor core products in cubins, by kind, as nvdisasm shows them.

    attnc compile SPEC --target sm_80 -o K.ptx && ptxas -arch=sm_80 K.ptx -o K.cubin
    tests/bench/sass_count.py [--nvdisasm PROGRAM] K.cubin...

One row a loop: what one turn of a warp issues if it takes all products and the most asynchronous copies, of several
ways to make these copies the shortest, and of any other branch the longer way. Nothing is timed.
"""
import argparse
import collections
import re
import shutil
import subprocess
import sys

LABEL = re.compile(r"^(\.L_[\w.]+):")
INSTRUCTION = re.compile(r"^\s*/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z0-9]+)(\S*)\s*(.*?);")
KINDS = {
    "HMMA": {"HMMA"}, "LDSM": {"LDSM"}, "LDS/STS": {"LDS", "STS"}, "LDGSTS": {"LDGSTS"}, "MUFU": {"MUFU"},
    "FMUL/FADD/FFMA": {"FMUL", "FADD", "FFMA"}, "FMNMX": {"FMNMX"}, "F2F(P)": {"F2F", "F2FP"}, "SHFL": {"SHFL"},
    "FSEL/FSETP": {"FSEL", "FSETP"}, "moves": {"MOV", "CS2R", "UMOV"},
    "integer": {"IMAD", "IADD3", "LEA", "LOP3", "SHF", "ISETP", "SEL", "IMNMX", "PLOP3", "PRMT", "P2R", "R2P", "SGXT",
                "IABS", "ULDC", "UIADD3", "UIMAD", "ULOP3", "USHF", "UISETP", "USEL", "UPLOP3", "ULEA", "R2UR", "S2R",
                "S2UR", "I2F", "F2I"},
    "spills": {"LDL", "STL"}, "BAR": {"BAR", "DEPBAR", "LDGDEPBAR", "WARPSYNC"},
    "branches": {"BRA", "BRX", "CALL", "EXIT", "BSSY", "BSYNC", "RET"}}
JUMPS, ENDS = {"BRA", "CALL"}, {"EXIT", "RET"}


def blocks_of(listing):
    """Blocks in order, each a list of (opcode, modifiers, operands, conditional), and the number of each label's."""
    blocks, labels = [[]], {}
    for line in listing.splitlines():
        label = LABEL.match(line)
        if label:
            if blocks[-1]:
                blocks.append([])
            labels[label[1]] = len(blocks) - 1
        found = INSTRUCTION.match(line)
        if not found:
            continue
        conditional = "@" in line.split(found[1])[0] or re.search(r"!?U?P\d+, `", found[3]) is not None
        blocks[-1].append((found[1], found[2], found[3], conditional))
        if found[1] in JUMPS | ENDS:
            blocks.append([])
    return blocks, labels


def edges_of(blocks, labels):
    edges = [set() for _ in blocks]
    for number, block in enumerate(blocks):
        opcode, modifiers, operands, conditional = block[-1] if block else ("", "", "", False)
        target = re.search(r"`\((\.L_[\w.]+)\)", operands)
        divergent = ".DIV" in modifiers  # never taken by a warp whose threads are together
        if opcode in JUMPS and target and not divergent and target[1] in labels:
            edges[number].add(labels[target[1]])
        if number + 1 < len(blocks) and (opcode not in JUMPS | ENDS or conditional or divergent):
            edges[number].add(number + 1)
    return edges


def dominators_of(edges, sources):
    """For each block those through which every way from the first one leads to it."""
    every = set(range(len(edges)))
    found = [{0}] + [every] * (len(edges) - 1)
    changed = True
    while changed:
        changed = False
        for block in range(1, len(edges)):
            before = [found[source] for source in sources[block]]
            new = (set.intersection(*before) if before else every) | {block}
            changed = changed or new != found[block]
            found[block] = new
    return found


def loops_of(edges):
    """Blocks of each natural loop, by its first block."""
    sources = collections.defaultdict(set)
    for block, targets in enumerate(edges):
        for target in targets:
            sources[target].add(block)
    dominators = dominators_of(edges, sources)
    loops = {}
    for head in range(len(edges)):
        wanted = [block for block in sources[head] if head in dominators[block]]
        loop = {head} if wanted else set()
        while wanted:
            block = wanted.pop()
            if block not in loop:
                loop.add(block)
                wanted.extend(sources[block])
        if loop:
            loops[head] = loop
    return loops


def kinds_of(block):
    kinds = collections.Counter()
    for opcode, modifiers, _, _ in block:
        if opcode == "IMAD" and modifiers.startswith(".MOV"):
            opcode = "MOV"
        kinds[next((kind for kind, members in KINDS.items() if opcode in members), "other")] += 1
    return kinds


class Way:
    """From a block to the end of the turn: what it issues, and the blocks with asynchronous copies on it."""

    def __init__(self, kinds, copying):
        self.kinds, self.copying = kinds, copying
        self.work, self.length = (kinds["HMMA"], kinds["LDGSTS"]), sum(kinds.values())

    def is_better(self, other):
        if self.work != other.work:
            return self.work > other.work
        if self.copying != other.copying:
            return self.length < other.length
        return self.length > other.length


def turn_of(blocks, edges, loop, head, inner):
    """The way from the first block of a loop to itself. Blocks of loops further in issue nothing."""
    ways = {head: Way(collections.Counter(), frozenset())}
    waiting, entered = [head], {head}
    while waiting:
        number = waiting[-1]
        targets = [target for target in edges[number] if target in loop]
        new = next((target for target in targets if target not in entered), None)
        if new is not None:
            entered.add(new)
            waiting.append(new)
            continue
        waiting.pop()
        own = collections.Counter() if number in inner else kinds_of(blocks[number])
        best = None
        for rest in (ways[target] for target in targets if target in ways):
            best = rest if best is None or rest.is_better(best) else best
        if best is not None:
            copying = best.copying | {number} if own["LDGSTS"] > 0 else best.copying
            ways[number] = Way(best.kinds + own, copying)
    return ways[head].kinds


def rows_of(cubin, nvdisasm):
    listing = subprocess.run([nvdisasm, "-c", cubin], check=True, capture_output=True, text=True).stdout
    blocks, labels = blocks_of(listing)
    edges = edges_of(blocks, labels)
    loops = loops_of(edges)
    for head, loop in loops.items():
        within = [other for start, other in loops.items() if other < loop]
        kinds = turn_of(blocks, edges, loop, head, set().union(*within) if within else set())
        if kinds["HMMA"] > 0:
            yield "%s, block %d" % (cubin, head), kinds


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("--nvdisasm", default=shutil.which("nvdisasm"), help="NVIDIA's disassembler")
    parser.add_argument("cubins", nargs="+")
    options = parser.parse_args()
    if options.nvdisasm is None:
        print("sass_count: nvdisasm is not on PATH; it comes with CUDA, or name it with --nvdisasm", file=sys.stderr)
        return 77
    names = list(KINDS) + ["other", "all", "all / HMMA", "HMMA / LDSM"]
    print("| loop | %s |" % " | ".join(names))
    print("|---%s|" % ("|---" * len(names)))
    for cubin in options.cubins:
        for name, kinds in rows_of(cubin, options.nvdisasm):
            total, products = sum(kinds.values()), kinds["HMMA"]
            cells = [kinds[kind] for kind in names[:-3]] + [total, "%.2f" % (total / products),
                                                           "%.2f" % (products / max(kinds["LDSM"], 1))]
            print("| %s | %s |" % (name, " | ".join(str(cell) for cell in cells)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
