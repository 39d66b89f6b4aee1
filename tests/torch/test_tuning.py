"""`mmkernels tune` and the user's table of tiles, without a GPU: candidates, choice, merging, files that are wrong."""

from __future__ import annotations

import json
import warnings

import pytest
import torch

from mmkernels import cli, triton_launch, tuning, user_tiles
from mmkernels.ops.attention.triton_kernels import tables
from mmkernels.triton_launch import ARCHITECTURES

BF16 = torch.bfloat16
OPS = ("attention", "fusion", "contrastive")


def shipped(op, arch="sm_90"):
    return triton_launch.shipped(tuning.TABLES[op], arch)


def forward_tile(size="many"):
    return tables.tile("sm_90", "forward", BF16, 64, size)


def forward_table(**numbers):
    return {"sm_90": {"attention": {"forward": {"16 bit": {"64": {"many": numbers}}}}}}


# ---- candidates ----


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("op", OPS)
def test_candidates_are_tables(op, arch):
    """Every candidate is taken by the check of user's tables; the shipped tile comes first, and no tile twice."""
    found = list(tuning.entries(op, arch, BF16))
    assert found
    for entry in found:
        tiles = tuning.candidates(entry)
        assert tiles[0].items() <= entry.tile.items() and len(tiles) > 3
        assert len({tuple(sorted(tile.items())) for tile in tiles}) == len(tiles)
        for tile in (tiles[0], tiles[-1]):
            user_tiles.merged(op, arch, shipped(op, arch), tuning._with({}, entry, tile)[op])


def test_what_decides_bits_is_no_candidate():
    entries = {entry.path: entry for entry in tuning.entries("attention", "sm_90", BF16)}
    assert set(tuning.candidates(entries["forward", "16 bit", "64", "many"])[0]) == {"height", "warps", "stages"}
    assert set(tuning.candidates(entries["backward_keys", "16 bit", "64", "many"])[0]) == {"keys", "warps", "stages"}
    assert not {path for path in entries if path[-1] in ("few", "fixed")}
    assert not [entry for entry in tuning.entries("fusion", "sm_90", BF16) if entry.path[0] == "rows"]
    assert set(tuning.candidates(next(tuning.entries("contrastive", "sm_90", BF16)))[0]) == {"warps", "stages"}


# ---- choice ----


def test_choice():
    a, b, c = {"warps": 4}, {"warps": 8}, {"warps": 2}
    assert tuning.choose([(a, 1.0), (b, 0.8), (c, None)]) == (b, pytest.approx(0.2))
    assert tuning.choose([(a, 1.0), (b, 0.99)]) == (a, 0.0)
    assert tuning.choose([(a, 1.0), (b, None)]) == (a, 0.0)
    with pytest.raises(ValueError, match="could not be measured"):
        tuning.choose([(a, None), (b, 1.0)])


def test_tune_keeps_what_is_faster():
    """A device on which 4 warps take half as long, 16 rows are refused, and the backward is always the same."""
    found = [entry for entry in tuning.entries("attention", "sm_90", BF16) if entry.path[2:] == ("64", "many")]

    def measure(entry):
        tile = tables.tile("sm_90", entry.path[0], BF16, 64, "many")
        if tile.height == 16 and entry.forward:
            raise RuntimeError("out of resources")
        return (0.5 if tile.warps == 4 else 1.0) + 0.001 * tile.stages if entry.forward else 1.0

    told = []
    table = tuning.tune("sm_90", found, measure, told.append, seconds=60)
    assert set(table["attention"]) == {"forward"} and len(told) == len(found)
    tile = table["attention"]["forward"]["16 bit"]["64"]["many"]
    assert tile["warps"] == 4 and tile["stages"] == 1 and tile["height"] > 16
    with user_tiles.trial({"sm_90": table}):
        assert forward_tile().warps == 4 and forward_tile().keys == 64
    assert forward_tile() == tables.Tile(**shipped("attention")["forward"]["16 bit"]["64"]["fixed"],
                                         **shipped("attention")["forward"]["16 bit"]["64"]["many"])  # fmt: skip


def test_tune_without_time_or_a_base():
    found, told = list(tuning.entries("contrastive", "sm_90", BF16)), []
    assert tuning.tune("sm_90", found, lambda entry: 1.0, told.append, seconds=-1) == {}
    assert told == [f"the time is over: {len(found)} of {len(found)} entries keep the shipped tiles"]

    def refuse(entry):
        raise RuntimeError("no")

    told.clear()
    assert tuning.tune("sm_90", found[:1], refuse, told.append, seconds=60) == {}
    assert "the shipped tile could not be measured" in told[0]
    with pytest.raises(ZeroDivisionError):  # a bug of ours is no refusal of the device's
        tuning.tune("sm_90", found[:1], lambda entry: 1 / 0, told.append, seconds=60)


def test_newer_entries_replace_older_ones():
    old = {"sm_90": {"attention": {"forward": {"a": 1}, "other": {"b": 2}}}, "sm_80": {"fusion": {"c": 3}}}
    new = tuning.kept_beside(old, "sm_90", {"attention": {"forward": {"a": 4}}})
    assert new == {"sm_90": {"attention": {"forward": {"a": 4}, "other": {"b": 2}}}, "sm_80": {"fusion": {"c": 3}}}
    assert old["sm_90"]["attention"]["forward"]["a"] == 1 and tuning.kept_beside(old, "sm_100", {}) == old


# ---- the user's table ----


@pytest.mark.parametrize(
    ("mine", "message"),
    [
        ([], "attention must be an object, got \\[\\]"),
        (
            {"sideways": {"16 bit": {}}},
            "attention: sideways is no entry that may be tuned, expected one of .*'forward'",
        ),
        ({"forward": {"16 bit": {"64": {"fixed": {"keys": 32}}}}}, "fixed is no entry that may be tuned"),
        ({"forward": {"16 bit": {"64": {"many": {"keys": 32}}}}}, "keys may not be tuned, expected one of .*'height'"),
        ({"backward_keys": {"16 bit": {"64": {"many": {"height": 64}}}}}, "height may not be tuned"),
        ({"forward": {"16 bit": {"64": {"many": {"chunk": 512}}}}}, "chunk may not be tuned"),
        ({"forward": {"16 bit": {"64": {"many": {"warps": "4"}}}}}, "warps must be an integer from 1 to 16, got '4'"),
        ({"forward": {"16 bit": {"64": {"many": {"warps": True}}}}}, "warps must be an integer"),
        ({"forward": {"16 bit": {"64": {"many": {"height": 48}}}}}, "height must be a power of two, got 48"),
        ({"forward": {"16 bit": {"64": {"many": {"height": 8}}}}}, "height must be an integer from 16 to 256, got 8"),
        ({"forward": {"16 bit": {"64": {"many": 4}}}}, "many may not be tuned"),
    ],
)
def test_entries_that_are_refused(mine, message):
    before = forward_tile()
    with pytest.raises(ValueError, match=message):
        user_tiles.merged("attention", "sm_90", shipped("attention"), mine)
    with user_tiles.trial({"sm_90": {"attention": mine}}):
        if mine:
            with pytest.warns(RuntimeWarning, match="the tiles that were tuned here are not used: sm_90: "):
                assert forward_tile() == before
        assert forward_tile() == before  # the shipped table serves, and says so once


def test_rows_of_a_fusion_are_refused():
    with pytest.raises(ValueError, match="rows is no entry that may be tuned"):
        user_tiles.merged("fusion", "sm_90", shipped("fusion"), {"rows": {"16 bit": {"height": 32}}})


@pytest.fixture
def file(tmp_path, monkeypatch):
    """Where the user's table is to be."""
    found = tmp_path / "settings" / "tiles.json"
    monkeypatch.setenv(user_tiles.VARIABLE, str(found))
    user_tiles.forget()
    yield found
    monkeypatch.setenv(user_tiles.VARIABLE, "")
    user_tiles.forget()


def test_file(file):
    before = forward_tile()
    user_tiles.write(file, forward_table(height=64, warps=4))
    assert forward_tile() == before  # read once
    user_tiles.forget()
    assert forward_tile() == before._replace(height=64, warps=4)
    assert forward_tile("general") != forward_tile()
    assert [each.name for each in file.parent.iterdir()] == ["tiles.json"]


@pytest.mark.parametrize(
    ("text", "message"),
    [(b"{", "must hold JSON, and does not"), (b"[1]", "must hold a JSON object, got list"), (b"\xff\xfe\x00", "JSON")],
)
def test_corrupt_file(file, text, message):
    before = forward_tile()
    file.parent.mkdir()
    file.write_bytes(text)
    user_tiles.forget()
    with pytest.warns(RuntimeWarning, match=f"not used: .*tiles.json {message}|not used: .*{message}"):
        assert forward_tile() == before
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert forward_tile("general").height == 32
    with pytest.raises(ValueError, match=message):
        user_tiles.read(file)


def test_a_table_that_cannot_be_written_leaves_the_old_one(file):
    user_tiles.write(file, forward_table(height=128))
    with pytest.raises(TypeError):
        user_tiles.write(file, {"sm_90": object()})
    assert json.loads(file.read_text()) == forward_table(height=128)


def test_where_the_file_is(monkeypatch, tmp_path):
    monkeypatch.delenv(user_tiles.VARIABLE)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert user_tiles.path() == tmp_path / "mmkernels" / "tiles.json"
    monkeypatch.setenv(user_tiles.VARIABLE, "")
    assert user_tiles.path() is None


# ---- the command ----


def test_command_without_a_gpu(capsys):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert cli.run(["tune"]) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("mmkernels tune: tiles are measured on a GPU with triton: ")
    assert err.count("\n") == 1


def test_command(file, monkeypatch, capsys):
    """With a device that is not there: the table is written where the user's is, beside what it had."""
    user_tiles.write(file, forward_table(height=128))
    monkeypatch.setattr(tuning._triton, "why_not_here", lambda: None)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(triton_launch, "device_of", lambda device: triton_launch.Device("sm_90", 1))

    def faster_with_four_warps(dtype, device):
        from mmkernels.ops.contrastive.triton_kernels.tables import tile

        return lambda entry: 1.0 if tile("sm_90", entry.path[0], dtype).warps == 4 else 2.0

    monkeypatch.setattr(tuning, "on_gpu", faster_with_four_warps)
    assert cli.run(["tune", "--op", "contrastive", "--json"]) == 0
    out, err = capsys.readouterr()
    found = json.loads(file.read_text())
    assert found["sm_90"]["attention"] == forward_table(height=128)["sm_90"]["attention"]
    assert found["sm_90"]["contrastive"] == json.loads(out)["contrastive"]
    assert {tile["16 bit"]["warps"] for tile in found["sm_90"]["contrastive"].values()} == {4}
    assert err.count("50% faster") == len(found["sm_90"]["contrastive"]) == 3


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [(["--minutes", "0"], 2, "--minutes must be above 0, got 0.0"), ([], 2, "must hold JSON, and does not")],
)
def test_command_refuses(file, monkeypatch, capsys, arguments, status, message):
    monkeypatch.setattr(tuning._triton, "why_not_here", lambda: None)
    file.parent.mkdir()
    file.write_text("{")
    assert cli.run(["tune", *arguments]) == status
    assert message in capsys.readouterr().err and file.read_text() == "{"


def test_calls_launch_their_kernel(monkeypatch):
    """What is timed for an entry is a call whose direction launches the kernel: on the CPU, the named function's."""
    seen = []
    for op, function in (("attention", "attention"), ("fusion", "concat_fusion"), ("contrastive", "contrastive_loss")):
        real = getattr(tuning, function)

        def on_cpu(*operands, real=real, op=op, backend, **options):
            seen.append((op, backend, sorted(options)))
            return real(*operands, **options)

        monkeypatch.setattr(tuning, function, on_cpu)
        for entry in tuning.entries(op, "sm_90", torch.float32):
            if op != "attention" or entry.path[2] == "64":
                found = tuning.call_of(entry, torch.float32, torch.device("cpu"), length=8)()
                assert torch.is_tensor(found) == entry.forward
    assert {(op, backend) for op, backend, _ in seen} == {(op, "triton") for op in OPS}
    assert ("attention", "triton", ["bias"]) in seen and ("attention", "triton", []) in seen
