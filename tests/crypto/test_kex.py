"""Key exchange methods: published vectors, determinism, and the checks of RFC 6989."""

import json
import random
from pathlib import Path

import pytest

from ipseclab.crypto.kex import (
    KE_METHODS,
    Ecp,
    KeyExchange,
    KeyExchangePrivate,
    MlKem,
    Modp,
    Montgomery,
)
from ipseclab.errors import KeyExchangeFailure
from ipseclab.registry import KeMethod

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "crypto.json").read_text())["kex"]

COSTLY = (KeMethod.MODP_6144, KeMethod.MODP_8192)
"""Tenths of seconds an exponentiation: their rows differ from the other groups' in numbers only."""
BEARABLE = [exchange for method, exchange in KE_METHODS.items() if method not in COSTLY]
each_method = pytest.mark.parametrize("exchange", BEARABLE, ids=lambda e: e.method.name)
MODP = [e for e in BEARABLE if isinstance(e, Modp)]
each_modp = pytest.mark.parametrize("group", MODP, ids=lambda e: e.method.name)
each_subgroup = pytest.mark.parametrize(
    "group", [e for e in MODP if e.order is not None], ids=lambda e: e.method.name
)
each_ecp = pytest.mark.parametrize(
    "group", [e for e in KE_METHODS.values() if isinstance(e, Ecp)], ids=lambda e: e.method.name
)


def private(exchange: KeyExchange, octets: bytes) -> KeyExchangePrivate:
    if isinstance(exchange, Montgomery):
        return exchange.private(octets)
    assert isinstance(exchange, Ecp)
    return exchange.private(int.from_bytes(octets, "big"))


@pytest.mark.parametrize("row", VECTORS, ids=lambda row: row["method"])
def test_vector(row: dict[str, str]) -> None:
    exchange = KE_METHODS[KeMethod.named(row["method"])]
    initiator = private(exchange, bytes.fromhex(row["private_i"]))
    responder = private(exchange, bytes.fromhex(row["private_r"]))
    assert initiator.public.hex() == row["public_i"]
    assert responder.public.hex() == row["public_r"]
    assert initiator.agree(responder.public).hex() == row["secret"]
    assert responder.agree(initiator.public).hex() == row["secret"]


@pytest.mark.parametrize("exchange", KE_METHODS.values(), ids=lambda e: e.method.name)
def test_both_ends_agree(exchange: KeyExchange) -> None:
    rng = random.Random(1)
    one, other = exchange.generate(rng), exchange.generate(rng)
    assert one.public != other.public
    assert len(one.public) == len(other.public) == exchange.public_size
    answer = exchange.respond(one.public, rng)
    assert len(answer.public) == exchange.reply_size
    assert answer.secret == one.agree(answer.public)
    assert len(answer.secret) == exchange.secret_size
    if not isinstance(exchange, MlKem) and exchange.method not in COSTLY:
        assert one.agree(other.public) == other.agree(one.public)


@each_method
def test_the_generator_alone_decides(exchange: KeyExchange) -> None:
    one, other = (exchange.generate(random.Random(5)) for _ in range(2))
    assert one.public == other.public
    assert one.public != exchange.generate(random.Random(6)).public
    answer = exchange.respond(one.public, random.Random(7))
    assert answer == exchange.respond(one.public, random.Random(7))
    assert answer != exchange.respond(one.public, random.Random(8))


@pytest.mark.rfc("7296", "3.4", "MUST", "modp-length")
@each_method
@pytest.mark.parametrize("change", [-1, 1])
def test_a_public_value_of_another_size_is_refused(exchange: KeyExchange, change: int) -> None:
    own = exchange.generate(random.Random(1))
    reply = exchange.respond(own.public, random.Random(2)).public
    for received, take in (
        (reply, own.agree),
        (own.public, lambda octets: exchange.respond(octets, random.Random(2))),
    ):
        size = len(received) + change
        named = f"KE data {size} octets, {exchange.method.name}"
        with pytest.raises(KeyExchangeFailure, match=named):
            take((received + b"\0")[:size])
        with pytest.raises(KeyExchangeFailure, match="KE data 0 octets"):
            take(b"")


@pytest.mark.parametrize(
    ("method", "point"),
    [
        *((KeMethod.CURVE25519, point) for point in (0, 1, 2**255 - 20, 2**255 - 19, 2**255 - 18)),
        *((KeMethod.CURVE448, 2**448 - 2**224 - 1 + offset) for offset in (-1, 0, 1)),
        *((KeMethod.CURVE448, point) for point in (0, 1)),
    ],
)
def test_montgomery_curves_refuse_points_of_small_order(method: KeMethod, point: int) -> None:
    exchange = KE_METHODS[method]
    own = exchange.generate(random.Random(1))
    octets = point.to_bytes(exchange.public_size, "little")
    with pytest.raises(KeyExchangeFailure, match=f"{method.name} shared secret is all zero"):
        own.agree(octets)
    with pytest.raises(KeyExchangeFailure, match="all zero"):
        exchange.respond(octets, random.Random(2))


@each_ecp
def test_ecp_refuses_a_point_off_the_curve(group: Ecp) -> None:
    own, peer = group.generate(random.Random(1)), group.generate(random.Random(2))
    for public in (
        peer.public[:-1] + bytes([peer.public[-1] ^ 1]),
        bytes(group.public_size),
        b"\xff" * group.public_size,  # coordinates beyond the field's prime
    ):
        with pytest.raises(KeyExchangeFailure, match="not on the curve"):
            own.agree(public)


@each_ecp
def test_ecp_order(group: Ecp) -> None:
    # (n - 1) G = -G: the same x; so n is the order, and the last scalar is usable.
    size = group.coordinate_size
    first, last = group.private(1).public, group.private(group.order - 1).public
    assert first[:size] == last[:size]
    assert first[size:] != last[size:]


@each_modp
def test_modp_refuses_values_out_of_range(group: Modp) -> None:
    own = group.generate(random.Random(1))
    for value in (0, 1, group.prime - 1, group.prime, group.prime + 2):
        with pytest.raises(KeyExchangeFailure, match=r"2\.\.p-2"):
            own.agree(value.to_bytes(group.public_size, "big"))


@each_modp
def test_modp_exponent_has_its_full_length(group: Modp) -> None:
    assert group.generate(random.Random(3)).exponent.bit_length() == group.exponent_bits


@pytest.mark.rfc("7296", "3.4", "MUST", "modp-length")
def test_modp_pads_public_value_and_secret() -> None:
    group = KE_METHODS[KeMethod.MODP_2048]
    assert isinstance(group, Modp)
    own = group.private(5)
    assert own.public == (32).to_bytes(256, "big")
    assert own.agree((2).to_bytes(256, "big")) == (32).to_bytes(256, "big")


@pytest.mark.parametrize(
    ("method", "tail"),
    [
        (KeMethod.MODP_1024, "49286651ece65381"),
        (KeMethod.MODP_1536, "f1746c08ca237327"),
        (KeMethod.MODP_2048, "15728e5a8aacaa68"),
        (KeMethod.MODP_3072, "4b82d120a93ad2ca"),
        (KeMethod.MODP_4096, "4df435c934063199"),
        (KeMethod.MODP_6144, "e694f91e6dcc4024"),
        (KeMethod.MODP_8192, "60c980dd98edd3df"),
    ],
)
def test_modp_primes_are_those_printed_in_rfc_2409_and_rfc_3526(
    method: KeMethod, tail: str
) -> None:
    group = KE_METHODS[method]
    assert isinstance(group, Modp)
    digits = f"{group.prime:x}"
    assert len(digits) * 4 == group.bits
    assert digits.startswith("f" * 16 + "c90fdaa22168c234c4c6628b80dc1cd129024e088a67cc74")
    assert digits.endswith(tail + "f" * 16)


@pytest.mark.parametrize(
    "group", [one for one in MODP if one.order is None], ids=lambda e: e.method.name
)
def test_modp_prime_is_a_safe_prime(group: Modp) -> None:
    # A wrong digit anywhere would make either of the two composite, and Fermat's test say so.
    assert pow(3, group.prime - 1, group.prime) == 1
    half = group.prime // 2
    assert pow(3, half - 1, half) == 1


@each_subgroup
def test_generator_has_the_order_of_its_subgroup_and_both_are_prime(group: Modp) -> None:
    assert group.order is not None
    for number in (group.prime, group.order):
        assert all(pow(base, number - 1, number) == 1 for base in (2, 3, 5))
    assert (group.prime - 1) % group.order == 0
    assert group.generator != 1
    assert pow(group.generator, group.order, group.prime) == 1
    assert 1 << group.exponent_bits < group.order


@each_subgroup
def test_a_value_outside_the_subgroup_is_refused(group: Modp) -> None:
    """RFC 6989 section 2.2: it would tell the exponent modulo a small factor of p - 1."""
    own = group.generate(random.Random(1))
    outside = next(value for value in range(2, 100) if pow(value, group.order, group.prime) != 1)
    with pytest.raises(KeyExchangeFailure, match="outside the subgroup"):
        own.agree(outside.to_bytes(group.public_size, "big"))
