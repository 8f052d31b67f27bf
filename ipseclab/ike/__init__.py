"""Sans-IO IKEv2 (RFC 7296): a file an exchange, and `endpoint` that drives them."""
