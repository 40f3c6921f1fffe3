"""Engine.IO and Socket.IO servers on AnyIO: the whole server runs on asyncio and on Trio."""

from .engine_server import AnyIOEngineServer
from .socketio_server import AnyIOServer

__all__ = ["AnyIOEngineServer", "AnyIOServer"]
