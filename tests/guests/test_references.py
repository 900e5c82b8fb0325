"""The expectations in the guests' headers against the same results computed in Python, by other means."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable

import pytest

from guests import catalogue

MASK = 0xFFFFFFFF


def fold(results: Iterable[int], start: int) -> int:
    """The checksum the guests print: h' = 31 h + result, modulo 2^32."""
    for result in results:
        start = (31 * start + result) & MASK
    return start


def sieve(limit: int) -> str:
    composite = bytearray(limit)
    for candidate in range(2, int(limit**0.5) + 1):
        if not composite[candidate]:
            multiples = range(candidate * candidate, limit, candidate)
            composite[candidate * candidate :: candidate] = b"\1" * len(multiples)
    return f"primes below {limit}: {composite[2:].count(0)}\n"


def sha256(blocks: int) -> str:
    period = bytes((7 * i + 3) & 0xFF for i in range(256))
    message = (period * (blocks // 4 + 1))[: 64 * blocks]
    return f"sha256 of {blocks} blocks\n{hashlib.sha256(message).hexdigest()}\n"


def quicksort(count: int) -> str:
    numbers, x = [], 12345
    for _ in range(count):
        x = (1664525 * x + 1013904223) & MASK
        numbers.append(x)
    return f"sorted {count} in order, checksum {fold(sorted(numbers), 1):08x}\n"


def matmul(order: int) -> str:
    # rows of A repeat every 17 and columns of B every 13, so 221 products hold them all
    product = [
        [sum((3 * i + 5 * k) % 17 * ((7 * k + j) % 13) for k in range(order)) for j in range(13)] for i in range(17)
    ]
    checksum = fold((product[i % 17][j % 13] for i in range(order) for j in range(order)), 1)
    trace = sum(product[i % 17][i % 13] for i in range(order))
    return f"matrix of order {order}: trace {trace}, checksum {checksum:08x}\n"


def fib(index: int) -> str:
    a, b = 0, 1
    for _ in range(index):
        a, b = b, a + b
    return f"fib({index}) = {a}\n"


def bytecode(turns: int) -> str:
    result = 0
    for i in range(turns, 0, -1):
        result = (31 * result + i) & MASK
        result ^= result >> 7
    return f"{turns} turns, result {result:08x}\n"


def strings(rounds: int) -> str:
    hashes = []
    for shift in range(26):
        text = bytes(ord("a") + (shift + i) % 26 for i in range(256))
        value = 5381
        for char in reversed(bytes(c if c == ord("e") else c - 32 for c in text)):
            value = (33 * value & MASK) ^ char
        hashes.append(value)
    # a comparison ends behind the changed byte, whose place is the round's number
    results = (value for n in range(rounds) for value in (n % 1024 + 1, 257, 256, hashes[n % 26]))
    return f"{rounds} rounds, checksum {fold(results, 0):08x}\n"


def memwalk(steps: int) -> str:
    pages = 4096
    while pages > steps:
        pages //= 2
    words, checksum, page = list(range(pages)), 0, 0
    for left in range(steps, 0, -1):
        page = (1229 * page + 7) % pages
        checksum += words[page]
        words[page] += left
    checksum &= MASK
    words = [0] * pages
    for done in range(steps):
        value = words[done % pages] + steps - done
        words[done % pages] = value
        checksum ^= value & MASK
    return f"{steps} steps, checksum {checksum:08x}\n"


REFERENCES: dict[str, Callable[[int], str]] = {
    "sieve": sieve,
    "sha256": sha256,
    "quicksort": quicksort,
    "matmul": matmul,
    "fib": fib,
    "bytecode": bytecode,
    "strings": strings,
    "memwalk": memwalk,
}


def test_every_compute_guest_has_a_reference() -> None:
    assert set(REFERENCES) == {name for name, guest in catalogue().items() if "compute" in guest.tags}


@pytest.mark.parametrize("name", sorted(REFERENCES))
def test_compute_guest_expects_what_python_computes(name: str) -> None:
    guest = catalogue()[name]
    assert guest.scale is not None
    assert guest.expect == REFERENCES[name](guest.scale.default)
    assert guest.expect_small == REFERENCES[name](guest.scale.small)


def test_self_modifying_guest_expects_the_results_of_patched_code() -> None:
    turns = range(40)

    def template(operation: Callable[[int, int], int], constant: int, operand: int) -> int:
        return 3 * operation(constant, operand) + 1

    across = [0x01010101] + [0x01000101 | p << 16 for p in turns]
    patched_loop, value = [], 0
    for turn in turns:
        step = (1 + 3 * turn) & 0xFF  # an immediate of one byte, sign-extended
        value += step - 256 if step > 127 else step
        patched_loop.append(value)
    rows = {
        "same block": [3 * (8 * p + 5) + p for p in turns],
        "next instruction": [p - 1 if p % 2 else p + 1 for p in turns],
        "next block": [77 * p for p in turns],
        "another page": [v for p in turns for v in ([1001 * p + 7, 1001 * p - 7] if p % 4 == 0 else [1001 * p + 7])],
        "patched loop": patched_loop,
        "copied code": [
            template(operation, constant, p)
            for p in turns
            for operation, constant in ((int.__add__, 0x01010101), (int.__add__, p), (int.__xor__, p))
        ],
        "across pages": [template(int.__add__, across[i], p) for p in turns for i in (p, p + 1)],
        "string store": list(turns),
        "branch target": [0xAA if p % 2 else 0x55 for p in turns],
    }
    lines = [f"{name + ':':18}{fold(results, 1):08x}\n" for name, results in rows.items()]
    assert catalogue()["smc"].expect == "".join(lines)
