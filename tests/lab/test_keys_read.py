"""Keys files of all formats, and files that are none of them."""

import json
from pathlib import Path

import pytest

from ipseclab.errors import ConfigError
from ipseclab.lab.keys import ESP_TABLE, IKE_TABLE, KeyTables
from ipseclab.lab.keys_read import EspSecrets, IkeSecrets, KeyPair, find_keys, read_secrets
from ipseclab.outputs import EspKeyLog, IkeKeyLog

VECTORS = Path(__file__).parent.parent / "vectors"

IKE_LOG = IkeKeyLog(
    b"spi_i---",
    b"spi_r---",
    "ENCR_AES_CBC",
    "AUTH_HMAC_SHA2_256_128",
    b"e" * 16,
    b"E" * 16,
    b"a" * 32,
    b"A" * 32,
)
CHACHA_LOG = IkeKeyLog(
    b"chacha-i", b"chacha-r", "ENCR_CHACHA20_POLY1305", "NONE", b"e" * 36, b"E" * 36, b"", b""
)
ESP_LOG = EspKeyLog(b"spi4", "192.0.2.1", "192.0.2.2", "ENCR_AES_GCM_16", "NONE", b"k" * 20, b"")


@pytest.fixture
def folder(tmp_path):
    tables = KeyTables(tmp_path / "keys")
    for log in (IKE_LOG, CHACHA_LOG, ESP_LOG):
        tables.add(log)
    tables.close()
    return tmp_path / "keys"


def test_a_folder_of_wiresharks_tables(folder):
    secrets = read_secrets(folder)
    assert secrets.ike == (
        IkeSecrets(
            KeyPair(b"e" * 16, b"a" * 32), KeyPair(b"E" * 16, b"A" * 32), (b"spi_i---", b"spi_r---")
        ),
        IkeSecrets(KeyPair(b"e" * 36, b""), KeyPair(b"E" * 36, b""), (b"chacha-i", b"chacha-r")),
    )
    assert secrets.esp == (EspSecrets(b"spi4", KeyPair(b"k" * 20, b"")),)
    assert "keys of 2 IKE SAs and 1 ESP SAs" in str(secrets)


@pytest.mark.parametrize(("name", "counts"), [(IKE_TABLE, (2, 0)), (ESP_TABLE, (0, 1))])
def test_one_table_by_itself(folder, name, counts):
    secrets = read_secrets(folder / name)
    assert (len(secrets.ike), len(secrets.esp)) == counts


def test_the_recorded_keys_of_the_vectors():
    for name, sizes in {"cbc128_modp2048": (16, 32), "gcm256_x25519": (36, 0)}.items():
        secrets = read_secrets(VECTORS / f"{name}.keys.json")
        assert len(secrets.ike) == 2
        assert {secret.spis for secret in secrets.ike} == {None}
        pairs = [secret.initiator for secret in secrets.ike]
        pairs += [secret.responder for secret in secrets.ike]
        pairs += [secret.keys for secret in secrets.esp]
        assert {(len(pair.encr), len(pair.integ)) for pair in pairs} == {sizes}
        # Two CHILD_SAs: four SPIs, and two key pairs that each of them may have.
        assert len({secret.spi for secret in secrets.esp}) == 4
        assert len(secrets.esp) == 8


def test_no_key_is_shown_in_a_repr(folder):
    secrets = read_secrets(folder)
    assert "eeee" not in repr(secrets)
    assert "6565" not in repr(secrets)
    assert "kkkk" not in repr(secrets)


def test_keys_beside_a_capture_are_found(tmp_path, folder):
    capture = tmp_path / "capture.pcapng"
    assert find_keys(capture) == folder
    beside = tmp_path / "capture.keys.json"
    beside.write_text("{}")
    assert find_keys(capture) == beside
    assert find_keys(tmp_path / "elsewhere" / "capture.pcapng") is None
    (tmp_path / "empty" / "keys").mkdir(parents=True)
    assert find_keys(tmp_path / "empty" / "capture.pcapng") is None


def test_an_empty_table_and_comments_are_no_keys(tmp_path):
    path = tmp_path / ESP_TABLE
    path.write_text("# nothing yet\n\n")
    assert read_secrets(path).esp == ()


EVENT = {"item": "Sk_ei", "hex": "00"}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("hello\n", ":1: not a row that can be used"),
        ('# comment\n\n"IPv4","a"\n', ":3: not a row"),
        ('"IPv4","1","2","0xzz","NULL","","NULL",""\n', ":1: a key or SPI that is not hexadecimal"),
        ("{", ":1:2: not JSON"),
        ('{"events": [\n,]}', ":2:1: not JSON"),
        ("[1, 2]", "events: a list was expected"),
        ('{"event": []}', "events: a list was expected"),
        ('{"events": {}}', "events: a list was expected"),
        ('{"events": [7]}', "events[0]: an object with a text `item`"),
        (json.dumps({"events": [EVENT, {"item": 4}]}), "events[1]: an object"),
        (json.dumps({"events": [{"item": "Sk_ei"}]}), "events[0]: `hex` with hexadecimal digits"),
        (json.dumps({"events": [{"item": "Sk_ei", "hex": "0g"}]}), "`hex` with hexadecimal"),
        (json.dumps({"events": [{"item": "ESP SA", "hex": "00"}]}), "`spi` with hexadecimal"),
        (json.dumps({"events": [EVENT]}), "no Sk_ei, Sk_er or ESP SA"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_a_bad_keys_file_is_refused_with_its_place(tmp_path, text, problem):
    path = tmp_path / "bad.keys.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"bad\.keys\.json") as refusal:
        read_secrets(path)
    assert problem in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_files_that_are_no_text_are_refused(tmp_path):
    path = tmp_path / "capture.pcap"
    path.write_bytes(b"\xd4\xc3\xb2\xa1\xff\xfe")
    with pytest.raises(ConfigError, match="not a text file"):
        read_secrets(path)
    with pytest.raises(ConfigError, match="No such file"):
        read_secrets(tmp_path / "missing")
    (tmp_path / "nothing").mkdir()
    with pytest.raises(ConfigError, match="no keys in this folder"):
        read_secrets(tmp_path / "nothing")
