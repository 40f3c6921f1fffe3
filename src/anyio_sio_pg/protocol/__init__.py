"""The cluster's rules, without I/O, clock or event loop.

Everything here takes the time and the ids that it needs as arguments, and hands back what is to be
done; it never does it.
"""
