"""The known disagreements with the real CPU, each with its reason; what none of them covers is a finding."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from isa.x86.decode import Insn
from tests.differential import situations
from tests.differential.compare import Differences
from tests.differential.harness import Case, Outcome
from tests.differential.situations import Fields, Situation

BOTH, TRANSLATE = ("interpret", "translate"), ("translate",)


@dataclass(frozen=True, slots=True)
class Disagreement:
    """One situation: what it looks like, and which of the case's instruction and outcomes shows it.

    `what` receives the outcome of the real CPU and of the engine; it returns the names of the fields that the situation
    explains (`*` for all of them, `st*` for all that begin so).
    """

    name: str
    reason: str
    engines: tuple[str, ...]
    what: Callable[[Situation], Fields]


DISAGREEMENTS: Final = (
    Disagreement(
        "denormal exception",
        "Unicorn does not tell denormal operands: unmasked, they raise nothing",
        BOTH,
        situations.denormal_exception,
    ),
    Disagreement(
        "SIMD flags",
        "Unicorn does not tell denormal operands",
        BOTH,
        situations.simd_flags,
    ),
    Disagreement(
        "flags of an overflow",
        "Unicorn reports an inexact result with every overflow; unmasked, one can be exact (SDM vol. 1, 11.5.2.4)",
        BOTH,
        situations.overflow_flags,
    ),
    Disagreement(
        "flags of a division",
        "Unicorn's x87 reports a division by zero also of an infinity",
        BOTH,
        situations.division_flags,
    ),
    Disagreement(
        "flags of roundings",
        "Unicorn's ROUNDPS and its like report an inexact result also where the immediate says not to",
        BOTH,
        situations.rounding_flags,
    ),
    Disagreement(
        "flags of approximations",
        "Unicorn divides where RCP and RSQRT approximate, and reports what that raises",
        TRANSLATE,
        situations.approximation_flags,
    ),
    Disagreement(
        "flags of a store that faults",
        "Unicorn has noted the exceptions of a conversion before it stores",
        TRANSLATE,
        situations.store_flags,
    ),
    Disagreement(
        "MMX mode at an exception",
        "a conversion to MMX registers that raises #XM has reset the x87 top of stack and tags on this processor",
        BOTH,
        situations.mmx_exception,
    ),
    Disagreement(
        "approximations",
        "RCP and RSQRT are approximations, other on every processor (SDM vol. 2); Unicorn divides",
        BOTH,
        situations.approximations,
    ),
    Disagreement(
        "x87 flags",
        "Unicorn does not tell denormal operands, and sets no C1 in the x87 status word",
        BOTH,
        situations.x87_flags,
    ),
    Disagreement(
        "x87 stack faults",
        "Unicorn finds no stack overflow and underflow: registers that are empty have values",
        BOTH,
        situations.x87_stack,
    ),
    Disagreement(
        "x87 unmasked",
        "Unicorn does not act on unmasked x87 exceptions: the result is stored all the same",
        BOTH,
        situations.x87_unmasked,
    ),
    Disagreement(
        "x87 invalid",
        "Unicorn takes unsupported encodings for numbers, and gives other NaNs and indefinite values",
        BOTH,
        situations.x87_invalid,
    ),
    Disagreement(
        "transcendental",
        "Unicorn computes FSIN, FPREM and their like with 53 bits, and FXTRACT takes infinities for numbers",
        BOTH,
        situations.transcendental,
    ),
    Disagreement(
        "x87 environment",
        "Unicorn stores reserved fields as 0 and FNSTENV masks no exceptions; vemu hides pointers",
        BOTH,
        situations.environment,
    ),
    Disagreement(
        "x87 control word",
        "Unicorn keeps the reserved bits of a control word that is loaded",
        BOTH,
        situations.control_word,
    ),
    Disagreement(
        "x87 summary",
        "Unicorn loads the summary and busy bits of a status word; the CPU makes them (SDM vol. 1, 8.1.3.3)",
        BOTH,
        situations.summary,
    ),
    Disagreement(
        "push of a segment",
        "the upper half of the operand is written or left alone (SDM vol. 2, PUSH)",
        BOTH,
        situations.push_segment,
    ),
    Disagreement(
        "masked store",
        "which address a faulting MASKMOV names depends on the processor, which has entered MMX mode",
        BOTH,
        situations.masked_store,
    ),
    Disagreement(
        "masked store of nothing",
        "MASKMOV with an empty mask may fault or not (SDM vol. 2)",
        BOTH,
        situations.masked_nothing,
    ),
    Disagreement(
        "Linux",
        "the kernel tells P=1 for every fault at an address of its own",
        BOTH,
        situations.hidden_fault,
    ),
    Disagreement(
        "MMX store fault",
        "an MMX store that faults has reset the x87 top of stack on this processor",
        BOTH,
        situations.mmx_fault,
    ),
    Disagreement(
        "compare predicate",
        "the reserved bits of CMPPS's immediate make it undefined in Unicorn",
        BOTH,
        situations.compare_predicate,
    ),
    Disagreement(
        "bit scan of zero",
        "the destination is undefined (SDM vol. 2, BSF); Unicorn clears bits 63 to 32",
        TRANSLATE,
        situations.scan_of_zero,
    ),
    Disagreement(
        "FXSAVE",
        (
            "Unicorn stores XMM8 to XMM15 in every mode, and fields that processors leave alone; vemu hides the "
            "x87 pointers"
        ),
        BOTH,
        situations.image,
    ),
    Disagreement(
        "reserved bits of MXCSR",
        "Unicorn loads them instead of raising #GP",
        TRANSLATE,
        situations.reserved_control,
    ),
    Disagreement(
        "BSWAP of 16 bits",
        "undefined (SDM vol. 2, BSWAP)",
        BOTH,
        situations.byte_swap,
    ),
    Disagreement(
        "flush to zero",
        "Unicorn lets MXCSR.FTZ act on x87 instead of SSE, and MAXPS and MINPS ignore DAZ",
        BOTH,
        situations.flush_to_zero,
    ),
    Disagreement(
        "undocumented x87",
        "FSTPNCE is no documented instruction",
        BOTH,
        situations.undocumented,
    ),
    Disagreement(
        "x87 tags",
        "Unicorn does not mark the register as valid that FST writes",
        BOTH,
        situations.tags,
    ),
    Disagreement(
        "x87 condition codes",
        "C0, C2 and C3 are undefined (SDM vol. 2)",
        BOTH,
        situations.condition_codes,
    ),
    Disagreement(
        "MMX upper bits",
        "Unicorn does not set bits 64 to 79 of the x87 register under an MMX register",
        BOTH,
        situations.mmx_upper,
    ),
    Disagreement(
        "the monitor's addresses",
        "the monitor's own memory is mapped from BASE32 on, for the guest too",
        TRANSLATE,
        situations.monitor,
    ),
    Disagreement(
        "wrap at 4 GiB",
        (
            "an operand that crosses 4 GiB is beyond the limit, or wraps and faults by paging: processors differ "
            "(SDM vol. 3, 5.3)"
        ),
        BOTH,
        situations.wrap,
    ),
    Disagreement(
        "FXAM",
        "Unicorn takes unsupported encodings for NaNs or numbers",
        BOTH,
        situations.examine,
    ),
    Disagreement(
        "x87 constants",
        "Unicorn's constants do not follow the rounding mode",
        BOTH,
        situations.constants,
    ),
    Disagreement(
        "decimal zero",
        "Unicorn's FBSTP stores no sign with a zero",
        BOTH,
        situations.decimal_zero,
    ),
    Disagreement(
        "x87 denormals",
        "Unicorn rounds denormals to another precision, and compares pseudo-denormals wrongly",
        BOTH,
        situations.precision,
    ),
    Disagreement(
        "pending exception",
        "Unicorn raises #MF at WAIT only",
        TRANSLATE,
        situations.pending,
    ),
    Disagreement(
        "alignment or page",
        "which of two faults comes first (SDM vol. 3, 6.9, leaves it open)",
        BOTH,
        situations.which_fault,
    ),
    Disagreement(
        "empty repeat",
        "Intel processors clear the upper halves of RSI and RDI where no element is done",
        BOTH,
        situations.empty_repeat,
    ),
    Disagreement(
        "empty count",
        "Unicorn leaves RCX alone where ECX is zero",
        TRANSLATE,
        situations.empty_count,
    ),
    Disagreement(
        "which byte",
        "of an x87 environment or image processors name another byte",
        BOTH,
        situations.which_byte,
    ),
    Disagreement(
        "which operand",
        "CMPS whose two operands fault: the order is not architectural",
        BOTH,
        situations.which_operand,
    ),
    Disagreement(
        "part of a frame",
        "CALL, ENTER, PUSHA and POPA have done on the processor what came before the fault",
        BOTH,
        situations.frame,
    ),
    Disagreement(
        "80-bit store",
        "on the processor the first 8 of 10 bytes are stored when the others fault",
        BOTH,
        situations.extended_store,
    ),
    Disagreement(
        "limit of CS",
        "translated code checks the limit of CS where it arrives, not where it branches",
        TRANSLATE,
        situations.code_limit,
    ),
    Disagreement(
        "cache line flush",
        "Unicorn's CLFLUSH does not look at its address",
        TRANSLATE,
        situations.flush,
    ),
    Disagreement(
        "FCOMI",
        "Unicorn leaves OF, SF and AF alone, which processors clear",
        TRANSLATE,
        situations.compare_flags,
    ),
    Disagreement(
        "x87 restore",
        "Unicorn has loaded what came before the fault, and reads no pointers",
        TRANSLATE,
        situations.restore,
    ),
    Disagreement(
        "flags of strings",
        "Unicorn has changed the flags when a repeated compare faults",
        TRANSLATE,
        situations.string_flags,
    ),
    Disagreement(
        "vector halves",
        "Unicorn accesses 8 bytes at a time: the first 8 when the others fault",
        TRANSLATE,
        situations.halves,
    ),
    Disagreement(
        "MMX load fault",
        "Unicorn enters MMX mode before an access that faults",
        TRANSLATE,
        situations.mmx_load_fault,
    ),
    Disagreement(
        "accumulator",
        "Unicorn clears the upper halves of RAX and of the destination of a 32-bit CMPXCHG, written or not",
        TRANSLATE,
        situations.accumulator,
    ),
    Disagreement(
        "equal ordered",
        "Unicorn's PCMPxSTRx finds matches beyond the end in equal ordered mode",
        BOTH,
        situations.ordered,
    ),
    Disagreement(
        "dot products",
        "DPPS and DPPD add in an order, and so round in a way, that Unicorn does not keep",
        BOTH,
        situations.dot_product,
    ),
    Disagreement(
        "choice of NaN",
        "of two NaNs Unicorn takes the one with the larger significand",
        BOTH,
        situations.nan,
    ),
)


def _covers(pattern: str, field: str) -> bool:
    return field.startswith(pattern[:-1]) if pattern.endswith("*") else field == pattern


def explain(
    engine: str, case: Case, insn: Insn, real: Outcome, found: Outcome, differences: Differences
) -> tuple[list[str], Differences]:
    """The names of the disagreements that apply, and the differences that none of them covers."""
    situation = Situation(case, insn, real, found, differences)
    left, names = dict(differences), []
    for disagreement in DISAGREEMENTS:
        if not left:
            break
        if engine not in disagreement.engines:
            continue
        covered = [field for field in left if any(_covers(pattern, field) for pattern in disagreement.what(situation))]
        if covered:
            names.append(disagreement.name)
            for field in covered:
                del left[field]
    return names, left
