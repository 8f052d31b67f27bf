"""EAP in IKE_AUTH (RFC 3748; RFC 7296 section 2.16): both sides, without I/O.

`peer` and `server` are the two state machines, `method` what a method has to offer them, and each
method is a file of its own with both of its sides. IKE carries every packet safely and in order, so
that EAP's own retransmission is left out.
"""
