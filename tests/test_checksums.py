"""A sealed file is told from one that was cut or changed, whichever bit it was."""

import pyarrow as pa
import pytest

from hf_distill.checksums import END, MARK, SEAL, damage, is_sealed, seal


@pytest.fixture
def shard(tmp_path):
    path = tmp_path / "shard.arrow"
    table = pa.table({"number": list(range(20))})
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table)
    return path


def test_readers_stop_before_the_seal(shard):
    plain = shard.read_bytes()
    assert plain.endswith(END) and not is_sealed(shard)
    seal(shard)
    sealed = shard.read_bytes()
    assert is_sealed(shard) and sealed.startswith(plain + MARK) and len(sealed) == len(plain) + SEAL
    with pa.memory_map(str(shard)) as file:
        assert pa.ipc.open_stream(file).read_all()["number"].to_pylist() == list(range(20))


def test_every_bit_counts(shard):
    seal(shard)
    whole = shard.read_bytes()
    assert damage(shard) is None
    for place in range(len(whole)):
        shard.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << place % 8]) + whole[place + 1 :])
        assert damage(shard) is not None, place


def test_every_cut_is_told(shard):
    plain = shard.read_bytes()
    seal(shard)
    whole = shard.read_bytes()
    for end in range(len(whole)):
        shard.write_bytes(whole[:end])
        expected = "has lost its checksum" if end == len(plain) else "was cut short"
        assert damage(shard) in (expected, "has lost its checksum"), end


def test_files_of_version_0_1_0_have_none(shard):
    assert damage(shard, unsealed=True) is None
    assert damage(shard) == "has lost its checksum"
    shard.write_bytes(shard.read_bytes()[:-1])
    assert damage(shard, unsealed=True) == "was cut short"


def test_what_changed_is_said(shard):
    seal(shard)
    whole = bytearray(shard.read_bytes())
    whole[100] ^= 1
    shard.write_bytes(whole)
    assert damage(shard).startswith("is damaged (its CRC-32 is ")
