"""`ipseclab calibrate`: what this machine needs for each operation that the simulator charges for.

Most figures are the least of several repetitions: what disturbs a measurement only ever adds to it.
"""

from __future__ import annotations

import multiprocessing
import platform
import random
import socket
from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from multiprocessing import cpu_count
from multiprocessing.connection import Connection
from statistics import median
from time import perf_counter, sleep

from ipseclab.crypto.kex import KE_METHODS, KeyExchange
from ipseclab.crypto.protection import Suite
from ipseclab.errors import EnvironmentLacks
from ipseclab.measure.workload import (
    datapath_pair,
    esp_suites,
    gateway_pair,
    handshake,
    inner_packet,
    open_packets,
    seal_packets,
)
from ipseclab.outputs import Output
from ipseclab.registry import KeMethod
from ipseclab.sim.costs import CostTable, PacketCost

SMALL, LARGE = 64, 1400
"""Octets of the inner packets between which an octet's price is found."""

ESP_BATCH = 200
ECHO_BATCH = 200
ECHO_TIMEOUT = 10.0
MESSAGES_OF_HANDSHAKE = 4
"""IKE_SA_INIT and IKE_AUTH, a request and a response each; each is made once and taken in once."""

IKE_PROPOSAL = "aes128gcm16-prfsha256-x25519"
ESP_PROPOSAL = "aes128gcm16"

Progress = Callable[[float, str], None]
"""Told the share that is done (0 to 1) and what comes next."""


@dataclass(frozen=True, slots=True)
class Effort:
    """How long one figure is measured (s), and how often at least; how many handshakes are made,
    and how long is waited before each of their steps (s)."""

    seconds: float = 0.1
    repetitions: int = 3
    handshakes: int = 15
    pause: float = 0.01

    def least(self, measure: Callable[[], float]) -> float:
        """The least that `measure` returned, after a first time that fills caches."""
        measure()
        found, count, end = inf, 0, perf_counter() + self.seconds
        while count < self.repetitions or perf_counter() < end:
            found = min(found, measure())
            count += 1
        return found


def calibrate(progress: Progress | None = None, effort: Effort | None = None) -> CostTable:
    """Measure this machine; some seconds with the usual effort."""
    effort = effort if effort is not None else Effort()
    suites = esp_suites()
    steps = len(KE_METHODS) + len(suites) + 2
    done = 0

    def begin(what: str) -> None:
        nonlocal done
        if progress is not None:
            progress(done / steps, what)
        done += 1

    ke_generate, ke_agree = {}, {}
    for method, exchange in KE_METHODS.items():
        begin(method.name)
        ke_generate[method.name] = generate_seconds(exchange, effort)
        ke_agree[method.name] = agree_seconds(exchange, effort)
    begin("IKE messages")
    x25519 = KeMethod.CURVE25519.name
    message = message_seconds(2 * (ke_generate[x25519] + ke_agree[x25519]), effort)
    esp_seal, esp_open = {}, {}
    for text, suite in suites.items():
        begin(text)
        esp_seal[text], esp_open[text] = esp_costs(suite, effort)
    begin("UDP between two processes")
    forward = echo_seconds(effort)
    if progress is not None:
        progress(1.0, "done")
    return CostTable(
        machine=f"{platform.machine()}, {cpu_count()} CPUs, Python {platform.python_version()}",
        ike_message=message,
        ke_generate=ke_generate,
        ke_agree=ke_agree,
        esp_seal=esp_seal,
        esp_open=esp_open,
        forward=forward,
    )


def seconds_of(action: Callable[[], object]) -> float:
    """How long `action` takes."""
    before = perf_counter()
    action()
    return perf_counter() - before


def generate_seconds(exchange: KeyExchange, effort: Effort) -> float:
    """Seconds to make a key pair."""
    rng = random.Random(1)
    return effort.least(lambda: seconds_of(lambda: exchange.generate(rng)))


def agree_seconds(exchange: KeyExchange, effort: Effort) -> float:
    """Seconds to compute a shared secret."""
    own, peer = exchange.generate(random.Random(1)), exchange.generate(random.Random(2))
    return effort.least(lambda: seconds_of(lambda: own.agree(peer.public)))


def message_seconds(key_exchange: float, effort: Effort) -> float:
    """Seconds to make an IKE message, or to take one in: half of a handshake's share a message.

    `key_exchange`: what generating and agreeing take in a whole handshake, both ends together. The
    median of handshakes with a pause before each step: an IKE message wakes a process that has
    slept, whose caches are cold, while ESP packets come in trains.
    """

    def once(seed: int) -> float:
        initiator, responder = gateway_pair(IKE_PROPOSAL, ESP_PROPOSAL, seed=seed)
        spent = 0.0

        def after_pause(_gateway: str, step: Callable[[], list[Output]]) -> list[Output]:
            nonlocal spent
            sleep(effort.pause)
            before = perf_counter()
            outputs = step()
            spent += perf_counter() - before
            return outputs

        handshake(initiator, responder, after_pause)
        return spent

    whole = median(once(seed) for seed in range(effort.handshakes))
    return max(0.0, whole - key_exchange) / (2 * MESSAGES_OF_HANDSHAKE)


def esp_costs(suite: Suite, effort: Effort) -> tuple[PacketCost, PacketCost]:
    """What sealing and opening cost under that suite: a straight line through two packet sizes."""
    small, large = (esp_seconds(suite, octets, effort) for octets in (SMALL, LARGE))
    return _line(small[0], large[0]), _line(small[1], large[1])


def _line(small: float, large: float) -> PacketCost:
    octet = max(0.0, (large - small) / (LARGE - SMALL))
    return PacketCost(packet=max(0.0, small - SMALL * octet), octet=octet)


def esp_seconds(suite: Suite, octets: int, effort: Effort) -> tuple[float, float]:
    """Seconds a packet of that many octets, through the whole datapath: sealed, and opened."""
    sender, receiver = datapath_pair(suite)
    packet = inner_packet(octets)
    opening = inf

    def once() -> float:
        nonlocal opening
        start = perf_counter()
        sealed = seal_packets(sender, packet, ESP_BATCH)
        middle = perf_counter()
        open_packets(receiver, sealed)
        opening = min(opening, perf_counter() - middle)
        return middle - start

    sealing = effort.least(once)
    return sealing / ESP_BATCH, opening / ESP_BATCH


def echo_seconds(effort: Effort) -> float:
    """Seconds for a datagram from one process to another: system calls, and waking the other up.

    The median of the echoes, halved, of the best batch.
    """
    # A fresh interpreter, not a fork: the caller may have threads (a progress bar has).
    context = multiprocessing.get_context("spawn")
    own_pipe, peer_pipe = context.Pipe()
    peer = context.Process(target=_echo, args=(peer_pipe,), daemon=True)
    peer.start()
    try:
        with _loopback_socket() as own:
            if not own_pipe.poll(ECHO_TIMEOUT):
                raise TimeoutError
            own.connect(own_pipe.recv())
            return effort.least(lambda: _median_echo(own)) / 2
    except TimeoutError as error:
        raise EnvironmentLacks(
            "UDP over the loopback does not arrive", "ip link set lo up"
        ) from error
    finally:
        peer.terminate()
        peer.join()


def _median_echo(own: socket.socket) -> float:
    def once() -> None:
        own.send(b"ping")
        own.recv(16)

    return median(seconds_of(once) for _ in range(ECHO_BATCH))


def _echo(pipe: Connection) -> None:
    """The other process: say where, then send back what comes until terminated."""
    with _loopback_socket() as own:
        own.settimeout(None)
        pipe.send(own.getsockname())
        while True:
            data, remote = own.recvfrom(16)
            own.sendto(data, remote)


def _loopback_socket() -> socket.socket:
    opened = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    opened.settimeout(ECHO_TIMEOUT)
    opened.bind(("127.0.0.1", 0))
    return opened
