"""PPKs in IKE_INTERMEDIATE and CREATE_CHILD_SA (RFC 9867): both outcomes, and peers of RFC 8784."""

import random

import pytest
from forge import forge, ike_sa, receive
from pair import make_pair
from transcript import ike_messages, opened, transcript

from ipseclab.crypto.kex import KE_METHODS
from ipseclab.crypto.prf import PRFS
from ipseclab.ike.config import Ppk, PpkUse
from ipseclab.ike.keys import ppk_confirmation, ppk_skeyseed
from ipseclab.ike.ppk_exchange import MAX_NAMED, confirmed, named
from ipseclab.ike.proposals import parse_esp_proposal, parse_ike_proposal
from ipseclab.outputs import EspKeyLog
from ipseclab.registry import AuthMethod, ExchangeType, KeMethod, NotifyType, PrfId
from ipseclab.wire.payloads import AuthPayload, IdiPayload, KePayload, NotifyPayload

BLUE, RED, GREEN = (Ppk(name, name * 8) for name in (b"blue", b"red", b"green"))
WRONG = Ppk(b"blue", b"not the blue one")
INT, EITHER, AUTH = PpkUse.INTERMEDIATE, PpkUse.EITHER, PpkUse.AUTH
HYBRID = (parse_ike_proposal("aes128gcm16-prfsha256-x25519-ke1_ecp256-ke2_x448"),)
FIRST = "a --> IKE_AUTH: SK {IDi, N(INITIAL_CONTACT), IDr, AUTH, SA, TSi, TSr}"
LAST = "b <-- IKE_AUTH: SK {IDr, AUTH, SA, TSi, TSr}"


def ends(of_a, of_b, *, a=None, b=None, **both):
    uses = {"ppk_use": INT, **both}
    return make_pair(a={"ppks": of_a, **uses, **(a or {})}, b={"ppks": of_b, **uses, **(b or {})})


def inside(pair, line):
    return opened(pair, ike_messages(pair)[line])[1]


def ppk_notifies(payloads):
    kinds = (NotifyType.PPK_IDENTITY_KEY, NotifyType.PPK_IDENTITY)
    return [
        (p.notify_type, p.data)
        for p in payloads
        if isinstance(p, NotifyPayload) and p.notify_type in kinds
    ]


def same_keys(pair):
    """Both ends have the same SAs with the same keys."""
    assert pair.spis(0) == pair.spis(1)
    keys = {}
    for log in pair.keys:
        if isinstance(log, EspKeyLog):
            keys.setdefault((log.spi, log.destination), []).append(log.encr_key)
    assert keys
    assert all(len(both) == 2 and len(set(both)) == 1 for both in keys.values())


def test_formulas():
    prf, sk_d = PRFS[PrfId.PRF_HMAC_SHA2_256], bytes(range(32))
    assert ppk_skeyseed(prf, sk_d, BLUE.key) == prf.prf(BLUE.key, sk_d + b"\x01")
    proof = ppk_confirmation(prf, BLUE.key, (b"n", b"m"), (b"i", b"r"))
    assert proof == prf.prf(BLUE.key, b"nmir")[:8]


@pytest.mark.parametrize("required", [False, True])
def test_a_ppk_in_an_exchange_of_its_own(required):
    pair = ends((BLUE,), (RED, BLUE), ppk_required=required)
    pair.connect()
    supported = "N(INTERMEDIATE_EXCHANGE_SUPPORTED), N(USE_PPK_INT)"
    assert transcript(pair) == [
        f"a --> IKE_SA_INIT: SA, KE, Ni, {supported}",
        f"b <-- IKE_SA_INIT: SA, KE, Nr, {supported}",
        "a --> IKE_INTERMEDIATE: SK {N(PPK_IDENTITY_KEY)}",
        "b <-- IKE_INTERMEDIATE: SK {N(PPK_IDENTITY)}",
        FIRST,
        LAST,
    ]
    assert ppk_notifies(inside(pair, 3)) == [(NotifyType.PPK_IDENTITY, b"\x02blue")]
    pair.agreed()
    assert ike_sa(pair, 0).keys == ike_sa(pair, 1).keys
    plain = make_pair()
    plain.connect()
    # Unlike in RFC 8784, IKE_AUTH is encrypted with keys that the PPK has part in.
    for name in ("sk_d", "sk_ei", "sk_er", "sk_pi", "sk_pr"):
        assert getattr(ike_sa(plain, 0).keys, name) != getattr(ike_sa(pair, 0).keys, name)


def test_it_rides_with_the_last_key_exchange_and_is_mixed_in_after_it():
    pair = ends((BLUE,), (BLUE,), ike_proposals=HYBRID)
    pair.connect()
    assert transcript(pair)[2:6] == [
        "a --> IKE_INTERMEDIATE: SK {KE}",
        "b <-- IKE_INTERMEDIATE: SK {KE}",
        "a --> IKE_INTERMEDIATE: SK {KE, N(PPK_IDENTITY_KEY)}",
        "b <-- IKE_INTERMEDIATE: SK {KE, N(PPK_IDENTITY)}",
    ]
    pair.agreed()
    assert ike_sa(pair, 1).ppk == BLUE


def test_the_responder_takes_the_first_that_is_truly_the_same():
    pair = ends((BLUE, RED, GREEN), (GREEN, WRONG, RED))
    pair.connect()
    assert [data[:-8] for _, data in ppk_notifies(inside(pair, 2))] == [
        b"\x02blue",
        b"\x02red",
        b"\x02green",
    ]
    assert ppk_notifies(inside(pair, 3)) == [(NotifyType.PPK_IDENTITY, b"\x02red")]
    pair.agreed()


@pytest.mark.parametrize("of_b", [(RED,), (WRONG,)])
def test_without_a_common_key_it_is_done_without(of_b):
    pair = ends((BLUE,), of_b)
    pair.connect()
    assert transcript(pair)[3:] == ["b <-- IKE_INTERMEDIATE: SK {}", FIRST, LAST]
    pair.agreed()
    assert ike_sa(pair, 0).ppk is None


@pytest.mark.parametrize("of_b", [(RED,), (WRONG,)])
@pytest.mark.parametrize("side", ["a", "b"])
def test_without_a_common_key_who_requires_one_refuses(of_b, side):
    pair = ends((BLUE,), of_b, **{side: {"ppk_required": True}})
    pair.connect()
    assert not pair.events("ike_established")
    if side == "b":
        assert transcript(pair)[-1] == ("b <-- IKE_INTERMEDIATE: SK {N(AUTHENTICATION_FAILED)}")
    pair.run(500.0)
    for gateway in pair.gateways:
        assert not any({**gateway.ike.table_sizes, "counters": 0}.values())


@pytest.mark.parametrize(
    ("use_a", "use_b", "agreed"),
    [
        (EITHER, EITHER, "INT"),
        (EITHER, INT, "INT"),
        (INT, EITHER, "INT"),
        (EITHER, AUTH, "AUTH"),
        (AUTH, EITHER, "AUTH"),
        (AUTH, INT, None),
        (INT, AUTH, None),
    ],
)
def test_the_better_of_what_both_can(use_a, use_b, agreed):
    pair = ends((BLUE,), (BLUE,), a={"ppk_use": use_a}, b={"ppk_use": use_b})
    pair.connect()
    pair.agreed()
    lines = transcript(pair)
    both = [line for line in lines if "N(USE_PPK)" in line and "N(USE_PPK_INT)" in line]
    assert len(both) == (use_a is EITHER), "a responder says one of the two"
    assert any("IKE_INTERMEDIATE: SK" in line for line in lines) == (agreed == "INT")
    assert any("IKE_AUTH" in line and "PPK" in line for line in lines) == (agreed == "AUTH")
    assert (ike_sa(pair, 0).ppk, ike_sa(pair, 1).ppk) == ((BLUE, BLUE) if agreed else (None, None))


class TestFreshKeys:
    """Section 3.2: each CREATE_CHILD_SA may mix in another key."""

    def pair(self, of_a=(BLUE, RED, GREEN), of_b=(BLUE, RED, GREEN), **more):
        pair = ends(of_a, of_b, **{"ppk_rekeys": True, **more})
        pair.connect()
        return pair

    def did(self, pair, action, side=0):
        """What that action's CREATE_CHILD_SA said."""
        before = len(pair.sent)
        pair.do(side, action, "site")
        pair.run(2.0)
        return [line for line in transcript(pair, first=before) if "CREATE_CHILD_SA" in line]

    @pytest.mark.parametrize("side", [0, 1])
    @pytest.mark.parametrize("action", ["rekey_ike", "rekey_child", "create_child"])
    def test_the_next_one_is_mixed_in(self, action, side):
        pair = self.pair()
        request, response = self.did(pair, action, side)
        assert request.count("N(PPK_IDENTITY_KEY)") == 3
        assert response.count("N(PPK_IDENTITY)") == 1
        same_keys(pair)
        assert {ike_sa(pair, end).ppk for end in (0, 1)} == {RED}
        self.did(pair, action, side)
        assert {ike_sa(pair, end).ppk for end in (0, 1)} == {GREEN}
        self.did(pair, action, 1 - side)
        assert {ike_sa(pair, end).ppk for end in (0, 1)} == {BLUE}
        same_keys(pair)

    def test_traffic_passes_on_what_a_fresh_key_made(self):
        pair = self.pair()
        for action in ("rekey_child", "rekey_ike", "rekey_child"):
            self.did(pair, action)
            packets = [pair.send(0, number) for number in range(3)]
            pair.run(1.0)
            assert pair.delivered[1][-3:] == packets

    @pytest.mark.parametrize("action", ["rekey_ike", "rekey_child"])
    def test_the_keys_differ_by_the_ppk_alone(self, action):
        """The same seed draws the same nonces and SPIs: with and without a fresh key."""
        keys = []
        for rekeys in (False, True):
            pair = self.pair((BLUE,), (BLUE,), ppk_rekeys=rekeys)
            self.did(pair, action)
            logs = [log for log in pair.keys if isinstance(log, EspKeyLog)]
            keys.append((ike_sa(pair, 0).keys.sk_ei, logs[-1].encr_key))
        changed = 0 if action == "rekey_ike" else 1
        assert keys[0][changed] != keys[1][changed]

    def test_a_peer_that_has_none_of_them_goes_on_without(self):
        pair = self.pair((BLUE, RED), (BLUE,), b={"ppk_rekeys": False})
        request, response = self.did(pair, "rekey_child")
        assert "PPK_IDENTITY_KEY" in request
        assert "PPK" not in response
        pair.agreed()

    def test_with_additional_key_exchanges(self):
        esp = (parse_esp_proposal("aes128gcm16-x25519-ke1_ecp256"),)
        pair = self.pair(ike_proposals=HYBRID, esp_proposals=esp)
        for action in ("rekey_child", "rekey_ike"):
            self.did(pair, action)
        pair.agreed()
        assert ike_sa(pair, 1).ppk == GREEN

    def test_rekeys_that_collide(self):
        for action in ("rekey_child", "rekey_ike"):
            pair = self.pair()
            for side in (0, 1):
                pair.do(side, action, "site")
            pair.run(30.0)
            pair.agreed()


class TestPeersThatErr:
    def half_open(self, **more):
        pair = ends((BLUE,), (BLUE,), **more)
        pair.fate = lambda sent: () if sent.is_ike(ExchangeType.IKE_INTERMEDIATE) else (0.0,)
        pair.do(0, "initiate", "site")
        pair.run(0.5)
        return pair

    @pytest.mark.parametrize(
        "data", [b"", b"\x02", b"\x02blue", b"\x01blue" + bytes(8), bytes(900)]
    )
    def test_names_that_make_no_sense_are_no_names(self, data):
        pair = self.half_open()
        notify = NotifyPayload(NotifyType.PPK_IDENTITY_KEY, data)
        receive(pair, 1, forge(pair, 0, ExchangeType.IKE_INTERMEDIATE, notify, message_id=1))
        assert ike_sa(pair, 1).ppk is None
        assert transcript(pair)[-1] == "b <-- IKE_INTERMEDIATE: SK {}"

    def names(self, pair, *ppks):
        return named(ike_sa(pair, 0), ppks)

    def test_so_many_names_are_looked_at_and_no_more(self):
        pair = self.half_open()
        names = self.names(pair, *[Ppk(bytes([n]), b"x") for n in range(MAX_NAMED)], BLUE)
        receive(pair, 1, forge(pair, 0, ExchangeType.IKE_INTERMEDIATE, *names, message_id=1))
        assert ike_sa(pair, 1).ppk is None

    def test_names_before_the_last_key_exchange_end_the_ike_sa(self):
        pair = self.half_open(ike_proposals=HYBRID)
        ke = KE_METHODS[KeMethod.ECP_256].generate(random.Random(1))
        payloads = (KePayload(KeMethod.ECP_256, ke.public), *self.names(pair, BLUE))
        receive(pair, 1, forge(pair, 0, ExchangeType.IKE_INTERMEDIATE, *payloads, message_id=1))
        assert transcript(pair)[-1] == "b <-- IKE_INTERMEDIATE: SK {N(INVALID_SYNTAX)}"

    def test_an_exchange_for_nothing_ends_the_ike_sa(self):
        pair = self.half_open()
        receive(pair, 1, forge(pair, 0, ExchangeType.IKE_INTERMEDIATE, message_id=1))
        assert transcript(pair)[-1] == "b <-- IKE_INTERMEDIATE: SK {N(INVALID_SYNTAX)}"

    def test_a_second_one_is_not_taken(self):
        pair = self.half_open()
        for message_id in (1, 2):
            before = len(pair.sent)
            names = self.names(pair, RED)
            octets = forge(pair, 0, ExchangeType.IKE_INTERMEDIATE, *names, message_id=message_id)
            receive(pair, 1, octets)
        assert len(pair.sent) == before
        assert pair.b.counters["ike.not_authenticated"] == 1

    def test_a_choice_that_was_not_named_ends_the_ike_sa(self):
        pair = self.half_open()
        chosen = confirmed(RED)
        octets = forge(pair, 1, ExchangeType.IKE_INTERMEDIATE, *chosen, message_id=1, response=True)
        receive(pair, 0, octets)
        (failed,) = pair.events("exchange_failed", 0)
        assert "not named" in str(failed.details["reason"])
        assert not pair.a.ike.ike_sas

    def test_an_initiator_that_skips_it_is_refused_where_a_ppk_is_required(self):
        pair = self.half_open(b={"ppk_required": True})
        who = ike_sa(pair, 0).connection.own_id
        payloads = (IdiPayload(who.id_type, who.data), AuthPayload(AuthMethod(2), bytes(32)))
        receive(pair, 1, forge(pair, 0, ExchangeType.IKE_AUTH, *payloads, message_id=1))
        assert transcript(pair)[-1] == "b <-- IKE_AUTH: SK {N(AUTHENTICATION_FAILED)}"
        assert "a PPK is required" in str(pair.events("ike_error_sent", 1)[0].details["reason"])
