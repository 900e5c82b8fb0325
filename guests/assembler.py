"""A small multi-pass assembler for the bundled guests: labels, data, macros and modes around keystone's encoder."""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable
from dataclasses import dataclass

from guests.encode import EncodeError, Encoder

_NAME = r"[A-Za-z_.][A-Za-z0-9_.]*"
_LABEL = re.compile(rf"({_NAME}):\s*")
_TOKEN = re.compile(rf"'(?:[^'\\]|\\.)'|0[xX][0-9a-fA-F]+|0b[01]+|\d+|{_NAME}|\$")
_STRING = re.compile(r'"((?:[^"\\]|\\.)*)"')
_WIDTHS = {".byte": 1, ".word": 2, ".long": 4, ".quad": 8}
_OPERATORS: dict[type[ast.AST], Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.floordiv,  # assembly has only whole numbers
    ast.LShift: operator.lshift,
    ast.RShift: operator.rshift,
    ast.BitAnd: operator.and_,
    ast.BitOr: operator.or_,
}
_MAX_PASSES = 20
_GUESSED_LENGTH = 5  # of an instruction that does not fit its operand's first guess


class AssemblyError(Exception):
    """A source line does not assemble; the message opens with its file and line."""


@dataclass(frozen=True)
class Line:
    """One statement after macro expansion, and where it was written."""

    text: str
    where: str


@dataclass(frozen=True)
class Program:
    """An assembled image: its bytes, the address of the first one, and the address of every label."""

    image: bytes
    origin: int
    symbols: dict[str, int]


def assemble(name: str, read: Callable[[str], str], origin: int, bits: int) -> Program:
    """Assemble the source `name` (`read` gives the text of it and of what it includes) at `origin`.

    Raises AssemblyError. Passes repeat until every label and byte stays where it was.
    """
    lines = _expand(_read_lines(name, read), {}, [0])
    encoder = Encoder()
    symbols: dict[str, int] = {}
    image = b""
    for _ in range(_MAX_PASSES):
        this = _Pass(encoder, origin, bits, symbols)
        for line in lines:
            try:
                this.statement(line.text)
            except (EncodeError, ValueError, SyntaxError, OverflowError) as error:
                raise AssemblyError(f"{line.where}: {error}") from None
        if this.labels == symbols and bytes(this.out) == image:
            if this.unknown:
                raise AssemblyError(f"{name}: undefined symbol {sorted(this.unknown)[0]!r}")
            return Program(image, origin, {k: v for k, v in symbols.items() if k in this.addresses})
        symbols, image = this.labels, bytes(this.out)
    raise AssemblyError(f"{name}: labels still move after {_MAX_PASSES} passes")


def _read_lines(name: str, read: Callable[[str], str]) -> list[Line]:
    lines = []
    for number, raw in enumerate(read(name).splitlines(), 1):
        text = _strip_comment(raw).strip()
        include = re.fullmatch(r'\.include\s+"([^"]+)"', text)
        if include is not None:
            lines += _read_lines(include[1], read)
        elif text:
            lines.append(Line(text, f"{name}:{number}"))
    return lines


def _strip_comment(raw: str) -> str:
    """Cut at the first ';' outside quotes."""
    quote = ""
    for at, char in enumerate(raw):
        if quote:
            if char == quote and raw[at - 1] != "\\":
                quote = ""
        elif char in "\"'":
            quote = char
        elif char == ";":
            return raw[:at]
    return raw


def _expand(lines: list[Line], macros: dict[str, tuple[list[str], list[Line]]], counter: list[int]) -> list[Line]:
    """Collect `.macro` definitions and replace their uses; `\\@` is a number new in every use."""
    out: list[Line] = []
    at = 0
    while at < len(lines):
        line = lines[at]
        at += 1
        words = line.text.split(None, 1)
        rest = words[1] if len(words) > 1 else ""
        if words[0] == ".macro":
            name, _, parameters = rest.partition(" ")
            body = []
            while at < len(lines) and lines[at].text != ".endm":
                body.append(lines[at])
                at += 1
            at += 1
            macros[name] = ([p.strip() for p in parameters.split(",") if p.strip()], body)
        elif words[0] in macros:
            names, body = macros[words[0]]
            values = _split_operands(rest)
            if len(values) != len(names):
                raise AssemblyError(f"{line.where}: macro {words[0]} takes {len(names)} operands, not {len(values)}")
            counter[0] += 1
            texts = []
            for inner in body:
                text = inner.text.replace("\\@", str(counter[0]))
                # longest names first, so that \ab is not taken for \a followed by b
                for key, value in sorted(zip(names, values, strict=True), key=lambda pair: -len(pair[0])):
                    text = text.replace("\\" + key, value)
                texts.append(Line(text, f"{line.where} ({inner.where})"))
            out += _expand(texts, macros, counter)
        else:
            out.append(line)
    return out


def _split_operands(text: str) -> list[str]:
    """Split at commas outside quotes, brackets and braces; one pair of braces around an operand is dropped."""
    parts, depth, quote, current = [], 0, "", ""
    for char in text:
        if quote:
            quote = "" if char == quote else quote
        elif char in "\"'":
            quote = char
        elif char in "[({":
            depth += 1
        elif char in "])}":
            depth -= 1
        if char == "," and depth == 0 and not quote:
            parts.append(current.strip())
            current = ""
        else:
            current += char
    if current.strip() or parts:
        parts.append(current.strip())
    return [p[1:-1].strip() if p.startswith("{") and p.endswith("}") else p for p in parts]


def _unescape(text: str) -> bytes:
    return text.encode("ascii").decode("unicode_escape").encode("latin-1")


class _Pass:
    """One walk over the statements with the labels of the walk before."""

    def __init__(self, encoder: Encoder, origin: int, bits: int, known: dict[str, int]) -> None:
        self._encoder, self._origin, self._bits, self._known = encoder, origin, bits, known
        self._scope = ""
        self._guessed = False
        self.out = bytearray()
        self.labels: dict[str, int] = {}
        self.addresses: set[str] = set()
        self.unknown: set[str] = set()

    @property
    def _here(self) -> int:
        return self._origin + len(self.out)

    def statement(self, text: str) -> None:
        label = _LABEL.match(text)
        while label is not None:
            self._define(self._full(label[1]), self._here)
            self.addresses.add(self._full(label[1]))
            if not label[1].startswith("."):
                self._scope = label[1]
            text = text[label.end() :]
            label = _LABEL.match(text)
        if not text:
            return
        word, _, rest = text.partition(" ")
        rest = rest.strip()
        if word in _WIDTHS:
            for operand in _split_operands(rest):
                value, width = self._value(operand), _WIDTHS[word]
                self.out += (value & ((1 << (8 * width)) - 1)).to_bytes(width, "little")
        elif word in (".ascii", ".asciz"):
            for literal in _STRING.findall(rest):
                self.out += _unescape(literal) + (b"\0" if word == ".asciz" else b"")
        elif word == ".space":
            count, *fill = [self._value(p) for p in _split_operands(rest)]
            self.out += bytes([fill[0] if fill else 0]) * count
        elif word == ".align":
            size, *fill = [self._value(p) for p in _split_operands(rest)]
            self.out += bytes([fill[0] if fill else 0x90]) * (-self._here % size)
        elif word == ".org":
            gap = self._value(rest) - self._here
            if gap < 0:
                raise ValueError(f".org {rest} lies {-gap} bytes behind")
            self.out += bytes(gap)
        elif word == ".equ":
            name, value_text = _split_operands(rest)
            self._define(name, self._value(value_text))
        elif word == ".mode":
            self._bits = int(rest)
            if self._bits not in (16, 32, 64):
                raise ValueError(f"no mode {rest}")
        elif word.startswith("."):
            raise ValueError(f"unknown directive {word}")
        else:
            self._encode(text)

    def _encode(self, text: str) -> None:
        self._guessed = False
        instruction = self._instruction(text)
        try:
            self.out += self._encoder.encode(instruction, self._here, self._bits)
        except EncodeError:
            if not self._guessed:
                raise
            self.out += bytes(_GUESSED_LENGTH)  # a later pass knows the symbol

    def _define(self, name: str, value: int) -> None:
        if name in self.labels:
            raise ValueError(f"symbol {name!r} is defined twice")
        self.labels[name] = value

    def _full(self, name: str) -> str:
        return self._scope + name if name.startswith(".") else name

    def _symbol(self, name: str) -> int | None:
        """The value of a symbol, or None when no such symbol is known; `$` is the current address."""
        if name == "$":
            return self._here
        full = self._full(name)
        return self.labels.get(full, self._known.get(full))

    def _numbers(self, text: str) -> str:
        """Replace literals and symbols by hexadecimal; an unknown symbol lies here for this pass."""

        def replace(match: re.Match[str]) -> str:
            token = match[0]
            if token[0] == "'":
                return hex(_unescape(token[1:-1])[0])
            if token[0].isdigit():
                return hex(int(token, 0))
            if _is_register(token):
                return token
            value = self._symbol(token)
            if value is None:
                self.unknown.add(token)
                self._guessed = True
                value = self._here
            return hex(value)

        return _TOKEN.sub(replace, text).replace("+-", "-")

    def _value(self, text: str) -> int:
        """Evaluate a constant expression."""
        return _evaluate(ast.parse(self._numbers(text), mode="eval").body)

    def _instruction(self, text: str) -> str:
        """The instruction with every symbol and expression as a hexadecimal number, as keystone reads it."""
        head, _, rest = text.partition(" ")
        if head in ("rep", "repe", "repne", "lock"):
            return f"{head} {self._instruction(rest)}"
        if not rest:
            return head
        return f"{head} " + ", ".join(self._operand(p) for p in _split_operands(rest))

    def _operand(self, text: str) -> str:
        memory = re.fullmatch(r"([^\[]*)\[([^\]]+)\]", text)
        if memory is not None:
            inner = memory[2].replace(" ", "")
            absolute = self._constant(inner)
            if absolute is not None:
                if self._bits != 64:
                    return f"{memory[1]}[{absolute:#x}]"
                # 64-bit code reaches a label as a compiler does, relative to RIP. Behind fs: and gs: it is an offset,
                # for which only the form with an empty index ("riz") is absolute (SDM vol. 2, table 2-3)
                return f"{memory[1]}[riz*1+{absolute:#x}]" if ":" in memory[1] else f"{memory[1]}[rip+to:{absolute:#x}]"
            return f"{memory[1]}[{self._numbers(inner)}]"
        if ":" in text:
            return ":".join(hex(self._value(part)) for part in text.split(":"))
        value = self._constant(text)
        return text if value is None else hex(value)

    def _constant(self, text: str) -> int | None:
        """The value of an operand without registers, None for any other; unknown labels count as `here` at first."""
        names = [t for t in _TOKEN.findall(text) if t[0] not in "'0123456789$"]
        if any(_is_register(name) for name in names) or " ptr" in text:
            return None
        return self._value(text)


_REGISTER = re.compile(
    r"[re]?(ax|bx|cx|dx|si|di|sp|bp|ip)|[abcd][lh]|(si|di|sp|bp)l|r\d+[dwb]?|[cdefgs]s|[xy]?mm\d+|[cd]r\d+|st\d*"
)


def _is_register(name: str) -> bool:
    return _REGISTER.fullmatch(name) is not None


def _evaluate(node: ast.AST) -> int:
    if isinstance(node, ast.Constant) and isinstance(node.value, int):
        return node.value
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        return _OPERATORS[type(node.op)](_evaluate(node.left), _evaluate(node.right))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_evaluate(node.operand)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Invert):
        return ~_evaluate(node.operand)
    raise ValueError("not a constant expression")
