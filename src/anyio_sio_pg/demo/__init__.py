"""The demo: an embedded PostgreSQL, two nodes in processes of their own, and a page on each.

``python -m anyio_sio_pg.demo`` (or ``anyio-sio-pg-demo``) starts it. It needs the extra ``demo``.
"""
