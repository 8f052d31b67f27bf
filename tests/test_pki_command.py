"""`ipseclab pki`: the same seed the same files, which other tools read; bad input in one line."""

import sys

import pytest
from cryptography import x509

from ipseclab import cli
from ipseclab.ike.certificates import Presented
from ipseclab.ike.config import Identity
from ipseclab.ike.credentials import LAB_EPOCH, CertificateDemand
from ipseclab.ike.trust import trusted_key
from ipseclab.ike.x509_read import read_certificate
from ipseclab.registry import IdType

AT = ("--at", "2026-01-01T00:00:00")


@pytest.fixture
def command(monkeypatch, capsys, tmp_path):
    """Runs a command line in an empty folder: exit code, standard output and error."""
    monkeypatch.chdir(tmp_path)

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["ipseclab", "pki", *words])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capsys.readouterr()
        return ended.value.code, out, err

    return run


def files(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def make(command, folder):
    for words in (
        ("init", folder, "--intermediates", "1", "--seed", "7", *AT),
        ("issue", folder, "gw1", "--id", "gw1.example.org", "--id", "192.0.2.1", *AT),
        ("issue", folder, "gw2", "--key", "ed25519", "--issuer", "lab-ca", "--days", "9", *AT),
        ("revoke", folder, "gw2", *AT),
    ):
        code, _out, err = command(*words)
        assert (code, err) == (0, "")


def test_same_seed_and_time_same_files(command, tmp_path):
    make(command, "one")
    make(command, "two")
    assert files(tmp_path / "one") == files(tmp_path / "two")
    assert (tmp_path / "one/certificates/gw1.key.pem").stat().st_mode & 0o777 == 0o600


def test_what_it_made_is_trusted_and_what_it_revoked_is_not(command, tmp_path):
    make(command, "lab")
    folder = tmp_path / "lab"

    def certificates(path):
        return x509.load_pem_x509_certificates((folder / path).read_bytes())

    (root,) = certificates("authorities/lab-ca.pem")
    chain = certificates("certificates/gw1.pem")
    assert len(chain) == 2
    demand = CertificateDemand((root,))
    what = Presented(tuple(read_certificate(item) for item in chain))
    for identity in (
        Identity(IdType.ID_FQDN, b"gw1.example.org"),
        Identity(IdType.ID_IPV4_ADDR, bytes([192, 0, 2, 1])),
    ):
        assert trusted_key(demand, what, identity, LAB_EPOCH)
    crl = x509.load_pem_x509_crl((folder / "authorities/lab-ca.crl.pem").read_bytes())
    (gw2,) = certificates("certificates/gw2.pem")
    assert crl.get_revoked_certificate_by_serial_number(gw2.serial_number)


def test_show_lists_each_certificate(command):
    make(command, "lab")
    _code, out, _err = command("show", "lab")
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert lines[1].startswith("lab-ca (root) ECDSA secp256r1 2025-12-31 23:00:00")
    assert lines[4] == ("gw2 lab-ca Ed25519 2025-12-31 23:00:00 2026-01-10 00:00:00 revoked")


BAD = [
    (("init", "lab"), "has a pki.json already"),
    (("init", "new", "--key", "rsa-512"), "did you mean 'rsa-"),
    (("init", "new", "--name", "../x"), "'../x' is not usable"),
    (("issue", "lab", "gw1"), "'gw1' is there already"),
    (("issue", "lab", "lab-ca"), "'lab-ca' is there already"),
    (("issue", "lab", "gw3", "--issuer", "lab-cb"), "did you mean 'lab-ca"),
    (("issue", "lab", "gw3", "--id", "gẅ3"), "expected names in ASCII"),
    (("issue", "lab", "gw3", "--at", "noon"), "expected a time like"),
    (("issue", "absent", "gw3"), "cannot be read"),
    (("revoke", "lab", "gw3"), "did you mean 'gw"),
    (("revoke", "lab", "lab-ca"), "is the root"),
    (("show", "broken"), "not JSON"),
    (("show", "strange"), "not an index"),
]


def test_bad_input_is_one_line_and_exit_code_2(command, tmp_path):
    make(command, "lab")
    for name, text in (("broken", "{"), ("strange", "{}")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "pki.json").write_text(text)
    before = files(tmp_path / "lab")
    for words, why in BAD:
        code, out, err = command(*words)
        assert (code, out) == (2, ""), words
        assert why in err, words
        assert err.count("\n") == 1
    assert files(tmp_path / "lab") == before
