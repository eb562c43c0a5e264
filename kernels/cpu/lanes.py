"""A vector of 256 bytes as a Numba type, so that a kernel says what happens in each lane.

Loops that LLVM vectorises by itself leave half of a wide machine idle (it prefers 32-byte registers) and
check their pointers for overlap at every step of time. Here it has nothing to prove: it splits a vector into
the machine's registers, and these few independent parts hide each other's latency. 64 lanes of float32, 32 of
float64.

    load(array, index)  store(array, index, v)  splat(x)  total(v)  + - * /  exp2  softplus  sigmoid
"""

import operator

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.core.datamodel.models import PrimitiveModel
from numba.extending import intrinsic, overload, register_model

BYTES = 256
FAST = {
    "contract",
    "nsz",
}  # fused multiply-adds; no reordering, no assumption that NaN and infinity are absent


class Lanes(types.Type):
    def __init__(self, dtype: types.Float) -> None:
        self.dtype = dtype
        self.count = BYTES * 8 // dtype.bitwidth
        super().__init__(f"Lanes({dtype}, {self.count})")


@register_model(Lanes)
class _LanesModel(PrimitiveModel):
    def __init__(self, dmm, fe_type) -> None:
        scalar = ir.FloatType() if fe_type.dtype == types.float32 else ir.DoubleType()
        super().__init__(dmm, fe_type, ir.VectorType(scalar, fe_type.count))


def _pointer(context, builder, signature, args):
    array_type, index_type = signature.args[:2]
    array = context.make_array(array_type)(context, builder, args[0])
    indices = cgutils.unpack_tuple(builder, args[1], len(index_type))
    item = cgutils.get_item_pointer(context, builder, array_type, array, indices, wraparound=False)
    vector = context.get_value_type(Lanes(array_type.dtype))
    return builder.bitcast(item, vector.as_pointer()), array_type.dtype.bitwidth // 8


@intrinsic
def load(typingctx, array, index):
    """The lanes of a contiguous array that start at `index` (a tuple)."""

    def emit(context, builder, signature, args):
        pointer, align = _pointer(context, builder, signature, args)
        return builder.load(pointer, align=align)

    return Lanes(array.dtype)(array, index), emit


@intrinsic
def store(typingctx, array, index, value):
    """Write the lanes of `value` from `index` (a tuple) on."""

    def emit(context, builder, signature, args):
        pointer, align = _pointer(context, builder, signature, args)
        builder.store(args[2], pointer, align=align)
        return context.get_dummy_value()

    return types.void(array, index, value), emit


def _broadcast(builder, vector_type, scalar):
    zero = ir.Constant(ir.IntType(32), 0)
    first = builder.insert_element(ir.Constant(vector_type, ir.Undefined), scalar, zero)
    mask = ir.Constant(ir.VectorType(ir.IntType(32), vector_type.count), [0] * vector_type.count)
    return builder.shuffle_vector(first, ir.Constant(vector_type, ir.Undefined), mask)


@intrinsic
def splat(typingctx, value):
    """The scalar in every lane."""

    def emit(context, builder, signature, args):
        return _broadcast(builder, context.get_value_type(signature.return_type), args[0])

    return Lanes(value)(value), emit


@intrinsic
def total(typingctx, value):
    """The sum of all lanes, added pairwise."""

    def emit(context, builder, signature, args):
        vector, width = args[0], signature.args[0].count
        while width > 1:
            width //= 2
            halves = [
                ir.Constant(ir.VectorType(ir.IntType(32), width), list(range(start, start + width)))
                for start in (0, width)
            ]
            low, high = (builder.shuffle_vector(vector, vector, half) for half in halves)
            vector = builder.fadd(low, high)
        return builder.extract_element(vector, ir.Constant(ir.IntType(32), 0))

    return value.dtype(value), emit


def _binary(instruction):
    @intrinsic
    def operation(typingctx, left, right):
        def emit(context, builder, signature, args):
            return getattr(builder, instruction)(*args)

        return left(left, right), emit

    return operation


def _unary(name):
    """An LLVM intrinsic lane by lane; on float64 exponentials this becomes calls of the C library."""

    @intrinsic
    def operation(typingctx, value):
        def emit(context, builder, signature, args):
            vector = args[0].type
            suffix = f"v{vector.count}f{signature.args[0].dtype.bitwidth}"
            function = cgutils.get_or_insert_function(
                builder.module, ir.FunctionType(vector, [vector]), f"llvm.{name}.{suffix}"
            )
            return builder.call(function, args)

        return value(value), emit

    return operation


for _operator, _instruction in (
    (operator.add, "fadd"),
    (operator.sub, "fsub"),
    (operator.mul, "fmul"),
    (operator.truediv, "fdiv"),
):

    def _declare(operation=_binary(_instruction), symbol=_operator):  # noqa: B008
        @overload(symbol, inline="always")
        def _(left, right):
            if isinstance(left, Lanes) and left == right:
                return lambda left, right: operation(left, right)

    _declare()

_magnitude, _exact_exp2 = map(_unary, ("fabs", "exp2"))


@intrinsic
def at_least(typingctx, value, bound):
    """max(value, bound) lane by lane that keeps NaN."""

    def emit(context, builder, signature, args):
        limit = _broadcast(builder, args[0].type, args[1])
        return builder.select(builder.fcmp_ordered("<", args[0], limit), limit, args[0])

    return value(value, bound), emit


@intrinsic
def at_most(typingctx, value, bound):
    """min(value, bound) lane by lane that keeps NaN."""

    def emit(context, builder, signature, args):
        limit = _broadcast(builder, args[0].type, args[1])
        return builder.select(builder.fcmp_ordered(">", args[0], limit), limit, args[0])

    return value(value, bound), emit


@intrinsic
def _low_bits_to_exponent(typingctx, value):
    """2^(bits - 127) for the lowest 8 bits of each pattern; 0 and infinity for the least and the greatest."""

    def emit(context, builder, signature, args):
        integers = ir.VectorType(ir.IntType(32), signature.args[0].count)
        shift = ir.Constant(integers, [23] * integers.count)
        return builder.bitcast(builder.shl(builder.bitcast(args[0], integers), shift), args[0].type)

    return value(value), emit


@intrinsic
def width(typingctx, array):
    """How many elements of the array one vector holds, as a constant."""
    count = Lanes(array.dtype).count

    def emit(context, builder, signature, args):
        return ir.Constant(context.get_value_type(types.intp), count)

    return types.intp(array), emit


# 2^f = 1 + f q(f) on [-1/2, 1/2], minimax: relative error 1.5e-7, and 6e-8 of the exponent near f = 0.
_Q0, _Q1, _Q2, _Q3, _Q4 = map(np.float32, (0.69314721, 0.24022248, 0.05550312, 0.00967124, 0.00134063))
_ONE, _LOW, _HIGH, _MAGIC = map(np.float32, (1, -127, 128, 1.5 * 2**23 + 127))
_TERMS = {types.float32: 8, types.float64: 17}
_NUMPY = {types.float32: np.float32, types.float64: np.float64}


def exp2(value):
    """2^value. float32: a polynomial, 0 below 2^-126.5, infinite above 2^127.5. float64: the C library's."""
    raise NotImplementedError("compiled code only")


@overload(exp2)
def _exp2(value):
    if value.dtype == types.float64:
        return lambda value: _exact_exp2(value)

    def polynomial(value):
        value = at_most(at_least(value, _LOW), _HIGH)
        shifted = value + splat(_MAGIC)  # its lowest bits are now the nearest integer + 127
        f = value - (shifted - splat(_MAGIC))
        q = splat(_Q4)
        q = q * f + splat(_Q3)
        q = q * f + splat(_Q2)
        q = q * f + splat(_Q1)
        q = q * f + splat(_Q0)
        return (q * f + splat(_ONE)) * _low_bits_to_exponent(shifted)

    return polynomial


def softplus(value):
    """log(1 + exp(value)) = max(value, 0) + log1p(exp(-|value|))."""
    raise NotImplementedError("compiled code only")


@overload(softplus)
def _softplus(value):
    number = _NUMPY[value.dtype]
    zero, two, minus_log2_e = number(0), number(2), number(-1 / np.log(2))
    # log(1 + e) = 2 artanh(s), s = e / (2 + e) <= 1/3; the series ends below the rounding error.
    series = tuple(number(2 / (2 * k + 1)) for k in reversed(range(_TERMS[value.dtype])))

    def implementation(value):
        e = exp2(_magnitude(value) * splat(minus_log2_e))
        s = e / (splat(two) + e)
        square = s * s
        p = splat(zero)
        for coefficient in series:
            p = p * square + splat(coefficient)
        return at_least(value, zero) + s * p

    return implementation


def sigmoid(value):
    """1 / (1 + exp(-value))."""
    raise NotImplementedError("compiled code only")


@overload(sigmoid)
def _sigmoid(value):
    number = _NUMPY[value.dtype]
    one, minus_log2_e = number(1), number(-1 / np.log(2))

    def implementation(value):
        return splat(one) / (splat(one) + exp2(value * splat(minus_log2_e)))

    return implementation


def compiled(function):
    """The function compiled at its first call, kept on disk, free of the interpreter's lock.

    What is kept is looked up by the kernel's own file: after a change of one that it imports, such as this
    one, delete the __pycache__ folders.
    """
    return njit(cache=True, nogil=True, fastmath=FAST)(function)
