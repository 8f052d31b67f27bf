"""What ends say in IKE_SA_INIT that they can do: `ike.capabilities`."""

from __future__ import annotations

import pytest
from pair import connection

from ipseclab.ike import capabilities
from ipseclab.ike.capabilities import (
    Capability,
    offers_in,
    offers_of_initiator,
    offers_of_responder,
)
from ipseclab.registry import NotifyType
from ipseclab.wire.payloads import NotifyPayload

BOTH = Capability(NotifyType.INTERMEDIATE_EXCHANGE_SUPPORTED, lambda _: b"")
WITH_DATA = Capability(
    NotifyType.SIGNATURE_HASH_ALGORITHMS,
    lambda connection: b"\x00\x05" if connection.name == "able" else None,
)
RESPONDER_ONLY = Capability(
    NotifyType.CHILDLESS_IKEV2_SUPPORTED, lambda _: b"", unasked=True, initiator=False
)


@pytest.fixture(autouse=True)
def _table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capabilities, "CAPABILITIES", (BOTH, WITH_DATA, RESPONDER_ONLY))


def _types(notifies: tuple[NotifyPayload, ...]) -> list[NotifyType]:
    return [notify.notify_type for notify in notifies]


def test_an_initiator_says_what_its_connection_can_do() -> None:
    assert _types(offers_of_initiator(connection(0))) == [BOTH.notify]
    assert _types(offers_of_initiator(connection(0, name="able"))) == [
        BOTH.notify,
        WITH_DATA.notify,
    ]


def test_a_responder_answers_what_it_was_offered_and_says_some_things_unasked() -> None:
    one = (connection(1),)
    assert _types(offers_of_responder(one, {})) == [RESPONDER_ONLY.notify]
    asked = {BOTH.notify: b"", WITH_DATA.notify: b"\x00\x02"}
    assert _types(offers_of_responder(one, asked)) == [BOTH.notify, RESPONDER_ONLY.notify]


def test_a_responder_says_what_any_of_its_connections_can_do() -> None:
    several = (connection(1), connection(1, name="able"))
    offers = offers_in(offers_of_responder(several, {WITH_DATA.notify: b""}))
    assert offers[WITH_DATA.notify] == b"\x00\x05"


def test_of_a_repeated_notify_the_first_counts_and_others_are_no_capabilities() -> None:
    notifies = [
        NotifyPayload(NotifyType.COOKIE, b"c"),
        NotifyPayload(BOTH.notify, b"1"),
        NotifyPayload(BOTH.notify, b"2"),
    ]
    assert offers_in(notifies) == {BOTH.notify: b"1"}
