"""Numbers that programs on one chip hand to each other without a barrier: words, of one of two forms.

With an epoch (int64, int32): a number together with how often its place was written, in one piece; who needs
it reads until the epoch is the one that is due. A fence and two trips through a counter are saved at every
hand-over. (NCCL sends small messages between GPUs in this way.)

Alone (float32, bfloat16): half of the bytes, for many rows, whose words are most of what programs read. Who
needs a number reads until it is not ABSENT, a NaN that is never sent. (TensorRT-LLM sums over GPUs in this
way.) A place has SLOTS words, which take turns from epoch to epoch; who writes one clears the one of the
epoch after the next. This second store, and a fence for each layer, are spared where there are few rows.
Only Mamba has them, and only where every program has columns of each layer's output.

No word is written or cleared too early: every stage needs something of all programs of the stage before it,
or of a program that did, so whoever writes a place again knows that its readers are further on. No reader
finds what a word held four epochs ago, however early it asks: who clears passes `settle`, behind which what
it cleared is cleared for all, and then sends its channels of y, and every program has received these of all
others in the layer before the one whose words it asks for.
"""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl

SLOTS = gl.constexpr(4)
ABSENT = gl.constexpr(-1)  # as an integer: all bits


@gluon.constexpr_function
def alone(dtype):
    """Whether words of this type have no epoch."""
    return dtype.is_floating()


@gluon.jit
def slot(words, epoch, rows, WIDTH: gl.constexpr):
    """Where the words (rows, WIDTH) of this epoch are."""
    if alone(words.dtype.element_ty):
        return words + gl.to_tensor(epoch % SLOTS).to(gl.int64) * rows * WIDTH
    else:
        return words


@gluon.jit
def send(words, rows, row, c, values, mask, epoch, WIDTH: gl.constexpr):
    """Write numbers of places (row, c) of (rows, WIDTH): float32 in float32 or int64, others in bfloat16 or
    int32."""
    place = row * WIDTH + c
    if words.dtype.element_ty == gl.int64:
        bits = values.to(gl.float32).to(gl.int32, bitcast=True).to(gl.int64)
        gl.store(words + place, (bits << 32) | epoch, mask=mask)
    elif words.dtype.element_ty == gl.int32:
        bits = values.to(gl.bfloat16).to(gl.int16, bitcast=True).to(gl.int32)
        gl.store(words + place, (bits << 16) | (epoch & 0xFFFF), mask=mask)
    else:
        number = values.to(words.dtype.element_ty)
        now = _integers(slot(words, epoch, rows, WIDTH))
        bits = number.to(now.dtype.element_ty, bitcast=True)
        bits = gl.where(bits == ABSENT, ABSENT - 1, bits)  # another NaN
        gl.store(now + place, bits, mask=mask)
        gl.store(_integers(slot(words, epoch + 2, rows, WIDTH)) + place, ABSENT, mask=mask)


@gluon.jit
def settle(words):
    """Words alone: go on when all that this thread wrote is there for all."""
    if alone(words.dtype.element_ty):
        gl.inline_asm_elementwise(
            "fence.acq_rel.gpu; mov.b32 $0, $1;", "=r,r", [gl.to_tensor(0)], dtype=gl.int32, is_pure=False,
            pack=1,
        )  # fmt: skip


@gluon.jit
def receive(place, mask, epoch, COUNT: gl.constexpr, RUN: gl.constexpr):
    """The numbers of this epoch, as soon as they are there; 0 outside the mask.

    place: in the epoch's slot. COUNT: words in each thread, all of which are asked for at once. RUN: of them
    side by side in memory, with one mask.
    """
    WORD: gl.constexpr = place.dtype.element_ty
    words = gl.inline_asm_elementwise(
        _receive_asm(COUNT, RUN, WORD), _receive_constraints(COUNT, WORD),
        [place, gl.to_tensor(epoch).to(gl.int32), mask.to(gl.int32)],
        dtype=_integers(place).dtype.element_ty, is_pure=False, pack=COUNT,
    )  # fmt: skip
    if alone(WORD):
        return words.to(WORD, bitcast=True)
    else:
        return opened(words)


@gluon.jit
def received_rows(words, tile, rows, epoch, STRIDE: gl.constexpr, TILE: gl.constexpr, ROWS: gl.constexpr):
    """A tile's rows of words (rows, STRIDE), as (ROWS, TILE)."""
    WARPS: gl.constexpr = gl.num_warps()
    LAYOUT: gl.constexpr = gl.BlockedLayout([1, 2], [1, 32], [WARPS, 1], [1, 0])
    row = tile * ROWS + gl.arange(0, ROWS, gl.SliceLayout(1, LAYOUT))
    c = gl.arange(0, TILE, gl.SliceLayout(0, LAYOUT))
    place = slot(words, epoch, rows, STRIDE) + row.to(gl.int64)[:, None] * STRIDE + c[None, :]
    inside = (row < rows)[:, None] & (c < STRIDE)[None, :]
    return receive(place, inside, epoch, ROWS * TILE // (32 * WARPS), 2)


@gluon.jit
def opened(words):
    """The numbers in the words; 0 in a word that is 0."""
    if alone(words.dtype):
        return words
    elif words.dtype == gl.int64:
        return (words >> 32).to(gl.int32).to(gl.float32, bitcast=True)
    else:
        return (words >> 16).to(gl.int16).to(gl.bfloat16, bitcast=True)


@gluon.jit
def _integers(place):
    """Places of words, for their bits."""
    if place.dtype.element_ty == gl.float32:
        return place.to(gl.pointer_type(gl.int32), bitcast=True)
    elif place.dtype.element_ty == gl.bfloat16:
        return place.to(gl.pointer_type(gl.int16), bitcast=True)
    else:
        return place


@gluon.constexpr_function
def _receive_asm(count, run, word):
    """PTX that reads `count` words of a thread, `run` of them side by side, until all are there.

    Operands: registers for the words, of 32 bits at least; their places; the epoch and the mask for each
    word. The places, masks and epochs that are the same for neighbours, or for all, are read once. Of words
    alone, many of which come at the same time, only a quarter (a few rows) is asked for until it is there.
    """
    bits = word.primitive_bitwidth
    each = max(32 // bits, 1)  # words of a register
    registers, side_by_side = count // each, max(min(run, 128 // bits) // each, 1)
    vector = {1: "", 2: ".v2", 4: ".v4"}[side_by_side]
    place, epoch, mask = registers, registers + count, registers + 2 * count
    lines = [f"{{ .reg .pred late, in<{registers}>; .reg .b32 due, wrong, low, high;"]
    lines.append(f"mov.b32 due, ${epoch};" if bits == 64 else f"and.b32 due, ${epoch}, 0xFFFF;")
    outside = "{due, 0}" if bits == 64 else "0" if word.is_floating() else "due"
    loads = []
    for i in range(0, registers, side_by_side):
        names = [f"${i + j}" for j in range(side_by_side)]
        lines.append(f"setp.ne.s32 in{i}, ${mask + i * each}, 0;")
        lines += [f"mov.b{max(bits, 32)} {name}, {outside};" for name in names]
        into = f"{{{', '.join(names)}}}" if vector else names[0]
        loads.append(f"@in{i} ld.relaxed.gpu.global{vector}.b{max(bits, 32)} {into}, [${place + i * each}];")
    lines += ["all:", *loads, *_late(registers, word)]
    few = max(len(loads) // 4, 4)
    if few < len(loads) and word.is_floating():
        lines += ["@!late bra done; some:", *loads[:few], *_late(few * side_by_side, word)]
        lines += ["@late bra some; bra all; done: }"]
    else:
        lines += ["@late bra all; }"]
    return " ".join(lines)


@gluon.constexpr_function
def _late(registers, word):
    """PTX that says whether a word in the first registers is of another epoch, or ABSENT, the only one that
    has the high bit of its complement less one."""
    bits, lines = word.primitive_bitwidth, ["mov.b32 wrong, 0;"]
    for i in range(registers):
        if word.is_floating():
            lines.append(f"sub.u32 low, {0xFFFEFFFE if bits == 16 else 0xFFFFFFFE}, ${i};")
            lines.append(f"lop3.b32 wrong, low, ${i}, wrong, 0xEA;")  # (low & word) | wrong
        elif bits == 64:
            lines.append(f"mov.b64 {{low, high}}, ${i}; lop3.b32 wrong, low, due, wrong, 0xBE;")
        else:
            lines.append(f"lop3.b32 wrong, ${i}, due, wrong, 0xBE;")  # (word ^ due) | wrong
    if word.is_floating():
        lines.append(f"and.b32 wrong, wrong, {0x80008000 if bits == 16 else 0x80000000};")
    elif bits == 32:
        lines.append("and.b32 wrong, wrong, 0xFFFF;")
    return [*lines, "setp.ne.b32 late, wrong, 0;"]


@gluon.constexpr_function
def _receive_constraints(count, word):
    bits = word.primitive_bitwidth
    outputs = ["=&l" if bits == 64 else "=&r"] * (count // max(32 // bits, 1))
    return ",".join(outputs + ["l"] * count + ["r"] * (2 * count))
