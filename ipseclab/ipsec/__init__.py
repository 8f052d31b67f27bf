"""The IPsec datapath without I/O: SPD, SAD, ESP (RFC 4301, RFC 4303)."""
