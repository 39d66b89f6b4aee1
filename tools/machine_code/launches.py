"""How the host launches the kernels that were found, asked of the code itself.

An entry point's template argument is the kernel's class, and that class says what a launch takes (csrc/cuda/launch). So
the demangled names are put back into a source, whose constants nvcc evaluates into the PTX of one array.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable
from pathlib import Path

from .count import Launch
from .disassemble import nvcc_flags, run_nvcc

TABLES = ("attention_table.h", "attention_backward_table.h", "contrastive_table.h", "fusion_table.h")
ENTRIES = ("attention_forward", "attention_merge", "attention_backward", "contrastive_loss", "fusion_entry")
WITHOUT_SHARED_MEMORY = ("attention_merge",)

# Operations, by feature, of the products of every pair of a row of the tile and a row loaded twice (a key and its
# value, or a query and its gradient): by kernel, whose last two arguments may say which gradients it makes.
OPERATIONS = {
    "AttentionForward": lambda key, value: 4,
    "AttentionBackwardQuery": lambda key, value: 6,
    "AttentionBackwardKeys": lambda key, value: 2 + 4 * key + 2 * value,
}

_ENTRY = re.compile(rf"mmkernels::device::({'|'.join(ENTRIES)})<(.*)>\(")
_SOURCE = """
{includes}
MMK_NAMESPACE_BEGIN
template <class K, class = void>
struct RowsOf {{ static constexpr int kRows = 0, kBytes = 0; }};
template <class K>
struct RowsOf<K, decltype(void(sizeof(typename K::T) + K::kRows))> {{
  static constexpr int kRows = K::kRows, kBytes = sizeof(typename K::T);
}};
#define MMK_LAUNCH(...) \\
  __VA_ARGS__::kThreads, __VA_ARGS__::kSharedBytes, RowsOf<__VA_ARGS__>::kRows, RowsOf<__VA_ARGS__>::kBytes
extern "C" __device__ int launches[] = {{{launches}}};
MMK_NAMESPACE_END
"""


def find_launches(names: Iterable[str], folder: Path) -> dict[str, Launch]:
    """The launch of every kernel among the demangled `names` that is an entry point of csrc/cuda/launch."""
    found = {name: entry for name in names if (entry := _ENTRY.search(name))}
    if not found:
        return {}
    source, ptx = folder / "launches.cu", folder / "launches.ptx"
    includes = "\n".join(f'#include "launch/{table}"' for table in TABLES)
    launches = ",\n".join(f"MMK_LAUNCH({entry[2]})" for entry in found.values())
    source.write_text(_SOURCE.format(includes=includes, launches=launches))
    run_nvcc([*nvcc_flags(80), "-ptx", str(source), "-o", str(ptx)])
    array = re.search(r"\.b8 launches\[(\d+)\] = \{([^}]*)\}", ptx.read_text())
    assert array, "nvcc left an array out"
    content = bytes(map(int, array[2].split(","))).ljust(int(array[1]), b"\0")  # zeros at the end are not written
    numbers = struct.unpack(f"<{4 * len(found)}i", content)
    return {name: _launch(entry, *numbers[4 * i : 4 * i + 4]) for i, (name, entry) in enumerate(found.items())}


def _launch(entry: re.Match[str], threads: int, shared: int, rows: int, element_bytes: int) -> Launch:
    family = re.sub(r".*::", "", entry[2].partition("<")[0])
    least = None
    if entry[1] not in WITHOUT_SHARED_MEMORY and family in OPERATIONS and rows:
        key, value = (word == "true" for word in re.findall(r"\w+", entry[2])[-2:])
        least = 1000 * 2 * element_bytes / (OPERATIONS[family](key, value) * rows)
    return Launch(threads, 0 if entry[1] in WITHOUT_SHARED_MEMORY else shared, least)
