"""Octets to frozen values and back: no keys, no clock, no state (RFC 7296 section 3)."""
