import os
import random
import shutil
import subprocess

import pytest

from ipseclab.crypto.cipher import CIPHERS, FIXED_KEY_BITS
from ipseclab.crypto.integrity import INTEGRITIES
from ipseclab.crypto.protection import Suite
from ipseclab.lab.keys import (
    ESP_TABLE,
    IKE_TABLE,
    KEYS_FOLDER,
    Capture,
    esp_row,
    ike_row,
    read_esp_rows,
    read_ike_rows,
    table_line,
)
from ipseclab.outputs import EspKeyLog, IkeKeyLog
from ipseclab.registry import IpProtocol
from ipseclab.wire.ip import build_icmp_echo, build_ipv4, build_udp

GW1, GW2 = bytes([192, 0, 2, 1]), bytes([198, 51, 100, 2])
SUITES = [
    Suite(cipher, integrity)
    for cipher in CIPHERS.values()
    for integrity in ([None] if cipher.aead else INTEGRITIES.values())
]
IKE_SUITES = [suite for suite in SUITES if suite.cipher.serves_ike]
NO_WIRESHARK = ("CCM", "GMAC", "IIV", "CHACHA20", "XCBC", "CMAC")


def wireshark_lacks(suite, *, ike=False):
    """Whether Wireshark 4.0 has no name for an algorithm; IKE's list has CCM."""
    words = [word for word in NO_WIRESHARK if not (ike and word == "CCM")]
    return any(word in suite_name(suite) for word in words)


def suite_name(suite):
    integrity = "" if suite.integrity is None else f"-{suite.integrity.id.name}"
    return f"{suite.cipher.id.name}_{suite.cipher.key_bits}{integrity}"


def encr_name(suite):
    """As the core names a transform: with its key size where the wire carries one."""
    name = suite.cipher.id.name
    return name if suite.cipher.id in FIXED_KEY_BITS else f"{name}_{suite.cipher.key_bits}"


def integ_name(suite):
    return "none" if suite.integrity is None else suite.integrity.id.name


def ike_keys(suite, rng):
    encr, integ = suite.encr_key_size, suite.integ_key_size
    spi_i, spi_r = rng.randbytes(8), rng.randbytes(8)
    keys = [rng.randbytes(size) for size in (encr, encr, integ, integ)]
    return IkeKeyLog(spi_i, spi_r, encr_name(suite), integ_name(suite), *keys)


def esp_keys(suite, rng):
    keys = rng.randbytes(suite.encr_key_size), rng.randbytes(suite.integ_key_size)
    return EspKeyLog(
        rng.randbytes(4), "192.0.2.1", "198.51.100.2", encr_name(suite), integ_name(suite), *keys
    )


def test_the_rows_are_written_as_wireshark_wants_them():
    key = bytes(range(20))
    ike = IkeKeyLog(b"\1" * 8, b"\2" * 8, "ENCR_AES_GCM_16_128", "none", key, key, b"", b"")
    assert ike_row(ike) == (
        f"0101010101010101,0202020202020202,{key.hex()},{key.hex()},"
        '"AES-GCM-128 with 16 octet ICV [RFC5282]",,,"NONE [RFC4306]"'
    )
    esp = EspKeyLog(b"\0\0\1\2", "192.0.2.1", "198.51.100.2", "ENCR_AES_GCM_16", "NONE", key, b"")
    assert esp_row(esp) == (
        '"IPv4","*","*","0x00000102","AES-GCM with 16 octet ICV [RFC4106]",'
        f'"0x{key.hex()}","NULL",""'
    )


@pytest.mark.parametrize("suite", SUITES, ids=suite_name)
def test_rows_are_read_again_also_as_comments(suite):
    rng = random.Random(1)
    esp = esp_keys(suite, rng)
    (esp_again,) = read_esp_rows(f"# a remark\n{table_line(esp)}\n")
    for name in ("spi", "encr_key", "integ_key"):
        assert getattr(esp_again, name) == getattr(esp, name)
    assert esp_again.encr == suite.cipher.id.name
    assert esp_again.integ == integ_name(suite).upper()
    assert table_line(esp).startswith("#") == wireshark_lacks(suite)


@pytest.mark.parametrize("suite", IKE_SUITES, ids=suite_name)
def test_ike_rows_are_read_again_also_as_comments(suite):
    rng = random.Random(1)
    ike, esp = ike_keys(suite, rng), esp_keys(suite, rng)
    (again,) = read_ike_rows(f"# a remark\n{table_line(ike)}\n{esp_row(esp)}\n")
    for name in ("spi_i", "spi_r", "sk_ei", "sk_er", "sk_ai", "sk_ar"):
        assert getattr(again, name) == getattr(ike, name)
    assert again.encr == suite.cipher.id.name
    assert again.integ == integ_name(suite).upper()
    assert table_line(ike).startswith("#") == wireshark_lacks(suite, ike=True)


def test_an_algorithm_without_a_name_is_refused():
    with pytest.raises(KeyError):
        esp_row(EspKeyLog(bytes(4), "", "", "ENCR_CAMELLIA_CBC", "NONE", bytes(16), b""))
    with pytest.raises(KeyError):
        ike_row(IkeKeyLog(b"", b"", "ENCR_AES_GCM_16", "NONE", bytes(21), bytes(21), b"", b""))


def test_both_ends_of_an_sa_make_one_row(tmp_path):
    keys = esp_keys(SUITES[0], random.Random(2))
    with Capture(tmp_path) as capture:
        capture.keys(keys)
        capture.keys(keys)
    lines = (tmp_path / KEYS_FOLDER / ESP_TABLE).read_text().splitlines()
    assert lines == [table_line(keys)]
    assert (tmp_path / KEYS_FOLDER / IKE_TABLE).read_text() == ""


def test_a_killed_run_leaves_the_rows_so_far(tmp_path):
    capture = Capture(tmp_path)
    keys = ike_keys(SUITES[0], random.Random(3))
    capture.keys(keys)
    assert (tmp_path / KEYS_FOLDER / IKE_TABLE).read_text() == f"{table_line(keys)}\n"
    capture.close()


def esp_packet(suite, keys, number):
    inner = build_ipv4(
        bytes([10, 1, 0, 10]), bytes([10, 2, 0, 10]), 1, build_icmp_echo(8, 1, number, b"x" * 41)
    )
    padding = -(len(inner) + 2) % max(4, suite.block_size)
    trailer = bytes(range(1, padding + 1)) + bytes([padding, IpProtocol.IPV4])
    header = keys.spi + (1).to_bytes(4, "big")
    protection = suite.keyed(keys.encr_key, keys.integ_key)
    sealed = protection.seal(header, bytes(range(suite.iv_size)), inner + trailer)
    return build_ipv4(GW1, GW2, IpProtocol.ESP, header + sealed)


def ike_packet(suite, keys, number):
    """An INFORMATIONAL request of the initiator with one Notify in its SK payload."""
    notify = bytes([0, 0, 0, 8, 0, 0]) + (16384 + number).to_bytes(2, "big")
    padding = -(len(notify) + 1) % max(1, suite.block_size)
    plaintext = notify + bytes(padding) + bytes([padding])
    sealed_size = suite.iv_size + len(plaintext) + suite.icv_size
    sk_header = bytes([41, 0]) + (4 + sealed_size).to_bytes(2, "big")
    total = 28 + len(sk_header) + sealed_size
    header = keys.spi_i + keys.spi_r + bytes([46, 0x20, 37, 0x08]) + bytes(4)
    associated = header + total.to_bytes(4, "big") + sk_header
    protection = suite.keyed(keys.sk_ei, keys.sk_ai)
    sealed = protection.seal(associated, bytes(range(suite.iv_size)), plaintext)
    return build_ipv4(GW1, GW2, 17, build_udp(GW1, 500, GW2, 500, associated + sealed))


def tshark(folder, *fields):
    command = ["tshark", "-r", str(folder / "capture.pcapng"), "-T", "fields"]
    command += ["-o", "esp.enable_encryption_decode:TRUE"]
    command += ["-o", "esp.enable_authentication_check:TRUE"]
    for field in fields:
        command += ["-e", field]
    environment = {**os.environ, "WIRESHARK_CONFIG_DIR": str(folder / KEYS_FOLDER)}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return [line.split("\t") for line in done.stdout.splitlines()]


@pytest.mark.tshark
def test_tshark_opens_esp_of_every_suite_with_the_keys_folder(tmp_path):
    if shutil.which("tshark") is None:
        pytest.skip("no tshark")
    rng = random.Random(4)
    with Capture(tmp_path) as capture:
        for number, suite in enumerate(SUITES):
            keys = esp_keys(suite, rng)
            capture.keys(keys)
            capture.packet("gw1-eth1", number * 0.001, esp_packet(suite, keys, number))
    expected = [
        ["", ""] if wireshark_lacks(suite) else ["1", str(number)]
        for number, suite in enumerate(SUITES)
    ]
    assert tshark(tmp_path, "esp.icv_good", "icmp.seq") == expected


@pytest.mark.tshark
def test_tshark_opens_ike_of_every_suite_with_the_keys_folder(tmp_path):
    if shutil.which("tshark") is None:
        pytest.skip("no tshark")
    rng = random.Random(5)
    with Capture(tmp_path) as capture:
        for number, suite in enumerate(IKE_SUITES):
            keys = ike_keys(suite, rng)
            capture.keys(keys)
            capture.packet("gw1-eth1", number * 0.001, ike_packet(suite, keys, number))
    expected = [
        [""] if wireshark_lacks(suite, ike=True) else [str(16384 + number)]
        for number, suite in enumerate(IKE_SUITES)
    ]
    assert tshark(tmp_path, "isakmp.notify.msgtype") == expected
