"""Redirect (RFC 5685): a gateway sends its clients to another one.

settings    who follows, who redirects      notifies   the notifications' octets
follow      the client's half               send       the gateway's half
"""
