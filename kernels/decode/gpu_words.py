"""Numbers that programs on one chip hand to each other without a barrier: words.

A word is a number together with the epoch of its place (how often that was written), written in one piece;
who needs it reads until the epoch is the one that is due. A fence and two trips through a counter are saved
at every hand-over. (NCCL sends small messages between GPUs in this way.)

No word is overwritten too early: every stage needs something of all programs of the stage before it, or of a
program that did, so whoever writes a place again knows that its readers are further on.
"""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl

ROWS = gl.constexpr(8)  # of a tile


@gluon.jit
def send(place, values, mask, epoch):
    """Write numbers as words: a float32 above 32 bits of epoch (int64), a bfloat16 above 16 (int32)."""
    if place.dtype.element_ty == gl.int64:
        bits = values.to(gl.float32).to(gl.int32, bitcast=True).to(gl.int64)
        gl.store(place, (bits << 32) | epoch, mask=mask)
    else:
        bits = values.to(gl.bfloat16).to(gl.int16, bitcast=True).to(gl.int32)
        gl.store(place, (bits << 16) | (epoch & 0xFFFF), mask=mask)


@gluon.jit
def receive(place, mask, epoch, COUNT: gl.constexpr, RUN: gl.constexpr):
    """The numbers of this epoch, as soon as they are there; 0 outside the mask.

    COUNT: words in each thread, all of which are asked for at once. RUN: of them side by side in memory, with
    one mask.
    """
    WIDE: gl.constexpr = place.dtype.element_ty == gl.int64
    words = gl.inline_asm_elementwise(
        _receive_asm(COUNT, RUN, WIDE), _receive_constraints(COUNT, WIDE),
        [place, gl.to_tensor(epoch).to(gl.int32), mask.to(gl.int32)],
        dtype=place.dtype.element_ty, is_pure=False, pack=COUNT,
    )  # fmt: skip
    return opened(words)


@gluon.jit
def received_rows(words, tile, rows, epoch, STRIDE: gl.constexpr, TILE: gl.constexpr):
    """A tile's rows of words (rows, STRIDE), as (ROWS, TILE)."""
    WARPS: gl.constexpr = gl.num_warps()
    LAYOUT: gl.constexpr = gl.BlockedLayout([1, 2], [1, 32], [WARPS, 1], [1, 0])
    row = tile * ROWS + gl.arange(0, ROWS, gl.SliceLayout(1, LAYOUT))
    c = gl.arange(0, TILE, gl.SliceLayout(0, LAYOUT))
    place = words + row.to(gl.int64)[:, None] * STRIDE + c[None, :]
    inside = (row < rows)[:, None] & (c < STRIDE)[None, :]
    return receive(place, inside, epoch, ROWS * TILE // (32 * WARPS), 2)


@gluon.jit
def opened(words):
    """The numbers in the words; 0 in a word that is 0."""
    if words.dtype == gl.int64:
        return (words >> 32).to(gl.int32).to(gl.float32, bitcast=True)
    else:
        return (words >> 16).to(gl.int16).to(gl.bfloat16, bitcast=True)


@gluon.constexpr_function
def _receive_asm(count, run, wide):
    """PTX that reads `count` words of a thread, `run` of them side by side, until all have the epoch.

    Operands: words out; their places; the epoch and the mask for each of them. The places, masks and epochs
    that are the same for neighbours, or for all, are read once.
    """
    kind = "b64" if wide else "b32"
    run = min(run, 2 if wide else 4)
    vector = {1: "", 2: ".v2", 4: ".v4"}[run]
    place, epoch, mask = count, 2 * count, 3 * count
    lines = [f"{{ .reg .pred late, in<{count}>; .reg .b32 due, wrong, low, high;"]
    lines += [f"mov.b32 due, ${epoch};" if wide else f"and.b32 due, ${epoch}, 0xFFFF;"]
    loads = []
    for i in range(0, count, run):
        names = ", ".join(f"${i + j}" for j in range(run))
        names = f"{{{names}}}" if run > 1 else names
        lines.append(f"setp.ne.s32 in{i}, ${mask + i}, 0;")
        for j in range(run):
            lines.append(f"mov.b64 ${i + j}, {{due, 0}};" if wide else f"mov.b32 ${i + j}, due;")
        loads.append(f"@in{i} ld.relaxed.gpu.global{vector}.{kind} {names}, [${place + i}];")
    lines += ["again:", *loads, "mov.b32 wrong, 0;"]
    for i in range(count):
        if wide:
            lines.append(f"mov.b64 {{low, high}}, ${i}; lop3.b32 wrong, low, due, wrong, 0xBE;")
        else:
            lines.append(f"lop3.b32 wrong, ${i}, due, wrong, 0xBE;")  # (word ^ due) | wrong
    lines += [] if wide else ["and.b32 wrong, wrong, 0xFFFF;"]
    lines += ["setp.ne.b32 late, wrong, 0;", "@late bra again; }"]
    return " ".join(lines)


@gluon.constexpr_function
def _receive_constraints(count, wide):
    return ",".join(["=&l" if wide else "=&r"] * count + ["l"] * count + ["r"] * (2 * count))
