"""The rounding's loops in C, for a processor: one pass where torch's operations need several.

The source is compiled once with the machine's C compiler and kept. Elements are computed by the same operations in the
same order as with torch, and sums are left to torch, so that every number has the same bits with and without them.
"""

import ctypes
import hashlib
import math
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from ofq.quant.rounding import Grid

_FLAGS = ["-O3", "-march=native", "-fopenmp-simd", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off"]

_SOURCE = r"""
#include <math.h>
#include <stdint.h>
#include <string.h>

/* A tensor is R rows of C numbers. Row r stands at (r / G) * outer + (r % G) * C, has the step r % T, and the move
   biases of row r % K; without T every column has its own step. */
typedef struct {
    int64_t rows, columns, steps, moves, groups, outer;
    float low, high, below, above; /* codes, and the open interval in which a gradient passes */
} Grid;

/* Rounded once or twice, as torch's addcmul does it here. */
static inline float multiply_add(float a, float b, float c) {
#ifdef ROUND_ONCE
    return fmaf(a, b, c);
#else
    return a * b + c;
#endif
}

static inline const float *row_of(const Grid *grid, const float *x, int64_t r) {
    return x + (r / grid->groups) * grid->outer + (r % grid->groups) * grid->columns;
}

static inline float code_of(float u, float low, float high) {
    const float raised = u < low ? low : u; /* not fmaxf: a NaN stays one */
    return nearbyintf(raised > high ? high : raised);
}

/* u = shifted + x/step, and its code as a number or an integer; shifted is before/step, R x C with period T. */
void place(const Grid *grid, const float *x, const float *step, const float *shifted, float *spare, float *u,
           float *codes, int8_t *integers) {
    const int64_t C = grid->columns, T = grid->steps;
    const float low = grid->low, high = grid->high;
    for (int64_t r = 0; r < grid->rows; r++) {
        const float *in = row_of(grid, x, r), *moved = shifted + (T ? r % T * C : 0);
        float *restrict to_u = u ? u + r * C : spare + C;
        float *restrict to_codes = codes ? codes + r * C : spare;
        if (T) {
            const float s = step[r % T];
#pragma omp simd
            for (int64_t c = 0; c < C; c++) {
                to_u[c] = moved[c] + in[c] / s;
                to_codes[c] = code_of(to_u[c], low, high);
            }
        } else {
#pragma omp simd
            for (int64_t c = 0; c < C; c++) {
                to_u[c] = moved[c] + in[c] / step[c];
                to_codes[c] = code_of(to_u[c], low, high);
            }
        }
        if (integers)
#pragma omp simd
            for (int64_t c = 0; c < C; c++) integers[r * C + c] = (int8_t)to_codes[c];
    }
}

/* code * step + after, from u; only the code without step. */
void values(const Grid *grid, const float *u, const float *step, const float *after, float *out) {
    const int64_t C = grid->columns;
    const float low = grid->low, high = grid->high;
    for (int64_t r = 0; r < grid->rows; r++) {
        const float *in = u + r * C;
        float *restrict to = out + r * C;
        const float *shift = after ? after + (r % grid->moves) * C : 0;
        const float s = step && grid->steps ? step[r % grid->steps] : 1.0f;
        if (step && !grid->steps) {
#pragma omp simd
            for (int64_t c = 0; c < C; c++)
                to[c] = multiply_add(code_of(in[c], low, high), step[c], shift ? shift[c] : -0.0f);
        } else if (shift) {
#pragma omp simd
            for (int64_t c = 0; c < C; c++) to[c] = multiply_add(code_of(in[c], low, high), s, shift[c]);
        } else {
#pragma omp simd
            for (int64_t c = 0; c < C; c++) to[c] = code_of(in[c], low, high) * s;
        }
    }
}

/* The gradient of x in place of g, and what every element adds to that of its step: g*code - grad*u. */
void gradients(const Grid *grid, float *g, const float *u, float *pull) {
    const int64_t C = grid->columns;
    const float low = grid->low, high = grid->high, below = grid->below, above = grid->above;
    for (int64_t r = 0; r < grid->rows; r++) {
        float *restrict grad = (float *)row_of(grid, g, r);
        float *restrict to = pull + r * C;
        const float *in = u + r * C;
#pragma omp simd
        for (int64_t c = 0; c < C; c++) {
            const float one = grad[c], inside = in[c] > below && in[c] < above ? one : 0.0f;
            to[c] = multiply_add(-inside, in[c], code_of(in[c], low, high) * one);
            grad[c] = inside;
        }
    }
}

typedef union {
    int32_t dot;
    float value;
} Cell;

/* bias + (dot * step of the row) * step of the column, where the dot stood. */
void combine(const Grid *grid, Cell *cells, const float *row_step, const float *column_step, const float *bias) {
    const int64_t C = grid->columns;
    for (int64_t r = 0; r < grid->rows; r++) {
        Cell *to = cells + r * C;
        const float s = row_step[r % grid->steps];
        if (bias) {
#pragma omp simd
            for (int64_t c = 0; c < C; c++) to[c].value = multiply_add((float)to[c].dot * s, column_step[c], bias[c]);
        } else {
#pragma omp simd
            for (int64_t c = 0; c < C; c++) to[c].value = (float)to[c].dot * s * column_step[c];
        }
    }
}
"""


class _Shape(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int64) for name in ("rows", "columns", "steps", "moves", "groups", "outer")),
        *((name, ctypes.c_float) for name in ("low", "high", "below", "above")),
    )


class Loops:
    """The compiled loops. They take float32 tensors on the CPU, and with one thread only, because they use one."""

    def __init__(self, library: Path) -> None:
        self.library = library
        loaded = ctypes.CDLL(str(library))  # calls let go of the interpreter's lock
        self._place, self._values = loaded.place, loaded.values
        self._gradients, self._combine = loaded.gradients, loaded.combine
        for function in (self._place, self._values, self._gradients, self._combine):
            function.restype = None

    def __reduce__(self) -> tuple[type["Loops"], tuple[Path]]:
        return Loops, (self.library,)  # a copied or pickled model loads it again

    @classmethod
    def compiled(cls) -> "Loops | None":
        """Compile them, or take them from the cache; None where there is no C compiler or it fails."""
        compiler, cache = shutil.which(os.environ.get("CC", "cc")) or shutil.which("gcc"), _cache()
        if compiler is None or cache is None:
            return None
        flags = [*_FLAGS, *(["-DROUND_ONCE"] if _rounds_once() else [])]
        library = cache / f"loops-{_key(compiler, flags)}.so"
        # One that cannot be loaded, for example a damaged one, is made again.
        return _loaded(library) or (_loaded(library) if _compile(compiler, flags, library) else None)

    def take(self, grid: "Grid", *tensors: Tensor) -> bool:
        """Whether they can do the rounding of the tensors."""
        return (
            torch.get_num_threads() == 1
            and all(x.device.type == "cpu" and x.dtype == torch.float32 and _rows(x) is not None for x in tensors)
            and _fits(grid)
        )

    def place(
        self, grid: "Grid", x: Tensor, step: Tensor, before: Tensor | None, *, integers: bool, keep: bool = True
    ) -> tuple[Tensor | None, Tensor]:
        """u, if it is to be kept, and the codes, as int8 or in the tensor's dtype."""
        shape = _shape(grid, x)
        if before is None:
            shifted = x.new_zeros(max(shape.steps, 1), shape.columns)
        else:
            shifted = before.view(grid.move_shape) / step
        u = x.new_empty(x.shape) if keep else None
        codes = x.new_empty(x.shape, dtype=torch.int8 if integers else x.dtype)
        spare = x.new_empty(2, shape.columns)
        outputs = (u, None, codes) if integers else (u, codes, None)
        self._place(ctypes.byref(shape), *_pointers(x, step, shifted, spare, *outputs))
        return u, codes

    def values(self, grid: "Grid", u: Tensor, step: Tensor | None, after: Tensor | None) -> Tensor:
        """code*step + after, or the codes alone without a step."""
        out = u.new_empty(u.shape)
        shape = _shape(grid, u)
        self._values(ctypes.byref(shape), *_pointers(u, step, after, out))
        return out

    def gradients(self, grid: "Grid", g: Tensor, u: Tensor) -> Tensor:
        """dL/dx in place of ``g``; returns what every element adds to the gradient of its step, without its factor."""
        pull = u.new_empty(u.shape)
        shape = _shape(grid, g)
        self._gradients(ctypes.byref(shape), *_pointers(g, u, pull))
        return pull

    def combine(self, dots: Tensor, step: Tensor, columns: Tensor, bias: Tensor | None) -> Tensor:
        """bias + dots*step*columns in place of int32 products (rows, out): one step a row, one factor a column."""
        shape = _Shape(rows=dots.shape[0], columns=dots.shape[1], steps=step.numel(), moves=1, groups=1)
        self._combine(ctypes.byref(shape), *_pointers(dots, step, columns, bias))
        return dots.view(torch.float32)


def _fits(grid: "Grid") -> bool:
    """Whether row r has the step r % T and the move biases of row r % K, or each column has its own step."""
    kept, moves = grid.step_shape, math.prod(grid.move_shape[:-1])
    if isinstance(grid.low, Tensor) or grid.offset:
        return False
    by_row = kept[-1] == 1 and (len(kept) == 1 or kept[-2] != 1 or math.prod(kept) == 1)
    return (by_row and math.prod(kept) % moves == 0) or len(kept) == moves == 1


def _rows(x: Tensor) -> tuple[int, int] | None:
    """How rows of the last axis stand: how many side by side, and the distance of such groups; None: another way."""
    columns = x.shape[-1]
    if x.is_contiguous():
        return 1, columns
    if x.ndim not in (3, 4) or x.stride(-1) != 1 or x.stride(0) != x.shape[1] * x.stride(1):
        return None
    if x.ndim == 3:
        return 1, x.stride(1)
    return (x.shape[2], x.stride(1)) if x.stride(2) == columns else None


def _shape(grid: "Grid", x: Tensor) -> _Shape:
    rows = _rows(x)
    assert rows is not None
    columns = x.shape[-1]
    steps = math.prod(grid.step_shape) if grid.step_shape[-1] == 1 else 0
    moves = math.prod(grid.move_shape[:-1])
    return _Shape(x.numel() // columns, columns, steps, moves, *rows, grid.low, grid.high, *grid.open_interval(x.dtype))


def _pointer(x: Tensor | None) -> ctypes.c_void_p:
    return ctypes.c_void_p(None if x is None else x.data_ptr())


def _pointers(*tensors: Tensor | None) -> tuple[ctypes.c_void_p, ...]:
    return tuple(_pointer(x) for x in tensors)


def _cache() -> Path | None:
    """A directory that is the user's own; None where there is no home."""
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ofq"
    except RuntimeError:
        return None


def _loaded(library: Path) -> Loops | None:
    try:
        return Loops(library) if library.exists() else None
    except OSError:
        return None


def _rounds_once() -> bool:
    """Whether torch multiplies and adds in one instruction: its kernels for newer processors do."""
    one = torch.full((64,), 1 + 2.0**-12)
    return bool((torch.addcmul(-torch.ones(64), one, one) != 2.0**-11).all())


def _key(compiler: str, flags: list[str]) -> str:
    """Of everything that the library depends on: source, compiler, processor."""
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=False).stdout
    try:
        processor = next(line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("flags"))
    except (OSError, StopIteration):
        processor = platform.processor()
    return hashlib.sha256("\n".join([_SOURCE, *flags, version, processor]).encode()).hexdigest()[:16]


def _compile(compiler: str, flags: list[str], library: Path) -> bool:
    """Whether it worked. The library appears at once and whole, so that runs may compile side by side."""
    try:
        library.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=library.parent) as directory:
            source, built = Path(directory) / "loops.c", Path(directory) / "loops.so"
            source.write_text(_SOURCE)
            command = [compiler, *flags, "-shared", "-fPIC", str(source), "-o", str(built), "-lm"]
            if subprocess.run(command, capture_output=True, check=False).returncode != 0:
                return False
            built.replace(library)
    except OSError:
        return False
    return True
