"""Single instructions of machine code: their class, the operations of their products, the bytes that they move."""

from __future__ import annotations

import pytest

from tools.machine_code.sass import CLASSES, Instruction


@pytest.mark.parametrize(
    ("opcode", "kind"),
    [
        ("HMMA.16816.F32.BF16", "matrix"),
        ("HGMMA.64x64x16.F32.BF16", "matrix"),
        ("UTCHMMA", "matrix"),
        ("LDSM.16.MT88.4", "matrix_load"),
        ("LDGSTS.E.BYPASS.LTC128B.128", "async_copy"),
        ("UTMALDG.2D", "async_copy"),
        ("MUFU.EX2", "exp2"),
        ("MUFU.RCP", "special"),
        ("FFMA.FTZ", "multiply_add"),
        ("FFMA2", "multiply_add"),
        ("FMNMX3.NAN", "float"),
        ("DFMA", "float"),
        ("HFMA2.MMA", "half"),
        ("F2FP.BF16.F32.PACK_AB", "convert"),
        ("SHFL.BFLY", "shuffle"),
        ("STL.128", "local"),
        ("LDS.U.128", "shared"),
        ("LDG.E.128.CONSTANT", "global"),
        ("ST.E", "global"),
        ("REDG.E.ADD.F32.FTZ.RN", "global"),
        ("LDCU.64", "constant"),
        ("ULDC.64", "constant"),
        ("LDGDEPBAR", "synchronise"),
        ("BAR.SYNC.DEFER_BLOCKING", "synchronise"),
        ("BRA.U", "control"),
        ("NOP", "nothing"),
        ("IMAD.MOV.U32", "move"),
        ("UMOV", "move"),
        ("IMAD.WIDE.U32", "integer"),
        ("IADD.64", "integer"),
        ("UIADD3", "integer"),
        ("VIADD", "integer"),
        ("LOP3.LUT", "integer"),
        ("XYZZY", "other"),
    ],
)
def test_class(opcode, kind):
    assert Instruction(0, "@P0", opcode, "").kind == kind
    assert Instruction(0, "@!PT", opcode, "").kind == "nothing"


def test_every_class_is_tried():
    (mark,) = test_class.pytestmark
    assert {kind for _, kind in mark.args[1]} == {name for name, _ in CLASSES} | {"other"}


@pytest.mark.parametrize(
    ("opcode", "flop"),
    [
        ("HMMA.16816.F32", 4096),
        ("HMMA.1688.F32", 2048),
        ("IMMA.16832.S8.S8", 8192),
        ("HGMMA.64x64x16.F32", 2 * 64 * 64 * 16 // 4),
        ("FFMA", 64),
        ("FFMA2", 128),
        ("FADD", 0),
        ("UTCHMMA", 0),
    ],
)
def test_flop(opcode, flop):
    assert Instruction(0, "", opcode, "").flop == flop


@pytest.mark.parametrize(
    ("opcode", "traffic"),
    [
        ("LDG.E", ("global_load", 128)),
        ("LDG.E.U16.CONSTANT", ("global_load", 64)),
        ("LDG.E.S8", ("global_load", 32)),
        ("LDG.E.128", ("global_load", 512)),
        ("STG.E.64", ("global_store", 256)),
        ("LDGSTS.E.LTC128B", ("global_to_shared", 128)),
        ("LDSM.16.M88", ("shared_load", 128)),
        ("LDSM.16.M88.2", ("shared_load", 256)),
        ("STSM.16.MT88.4", ("shared_store", 512)),
        ("STL.64", ("local", 256)),
        ("LDGDEPBAR", None),
        ("LDC.64", None),
    ],
)
def test_traffic(opcode, traffic):
    assert Instruction(0, "", opcode, "").traffic == traffic
