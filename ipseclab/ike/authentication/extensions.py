"""The features that take part in IKE_AUTH, in the order of their payloads."""

from __future__ import annotations

from ipseclab.ike.authentication.childless import ChildlessExtension
from ipseclab.ike.authentication.crash_detection import CrashDetectionExtension
from ipseclab.ike.authentication.extension import AuthExtension
from ipseclab.ike.authentication.internal_address import InternalAddressExtension
from ipseclab.ike.authentication.mobike import MobikeExtension
from ipseclab.ike.authentication.reauthentication import ReauthenticationExtension
from ipseclab.ike.authentication.redirect import RedirectExtension
from ipseclab.ike.authentication.resumption import ResumptionExtension

EXTENSIONS: tuple[AuthExtension, ...] = (
    ChildlessExtension(),
    ResumptionExtension(),
    CrashDetectionExtension(),
    ReauthenticationExtension(),
    InternalAddressExtension(),
    MobikeExtension(),
    RedirectExtension(),
)
