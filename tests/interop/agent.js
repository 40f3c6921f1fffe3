// Does with socket.io-client what the tests ask for, in Node and in browsers.
//
// Commands come as objects; what the sockets see is passed to `report`. Binary data travels as
// {"$bytes": base64}, since commands and reports are JSON.

export function makeAgent(io, report, parsers = {}) {
  const sockets = new Map();
  const managers = new Map();

  function open({ client, url, namespaces, options, parser }) {
    const settings = { forceNew: true, autoConnect: false, ...options };
    if (parser) settings.parser = parsers[parser];
    const first = io(url + namespaces[0], settings);
    const manager = first.io;
    managers.set(client, manager);
    manager.on("open", () => {
      const engine = manager.engine;
      report({ client, kind: "transport", args: [engine.transport.name] });
      engine.once("upgrade", (transport) =>
        report({ client, kind: "transport", args: [transport.name] })
      );
    });
    for (const namespace of namespaces) {
      const socket =
        namespace === namespaces[0] ? first : manager.socket(namespace, { auth: settings.auth });
      sockets.set(`${client} ${namespace}`, socket);
      watch(client, namespace, socket);
      socket.connect();
    }
  }

  function watch(client, namespace, socket) {
    const tell = (kind, ...args) => report({ client, namespace, kind, args: pack(args) });
    socket.on("connect", () => tell("connect", socket.id));
    socket.on("connect_error", (error) =>
      tell("connect_error", { message: error.message, data: error.data ?? null })
    );
    socket.on("disconnect", (reason) => tell("disconnect", reason));
    socket.onAny((event, ...args) => {
      const acknowledge = typeof args.at(-1) === "function" ? args.pop() : null;
      tell("event", event, ...args);
      if (acknowledge) acknowledge(...args);
    });
  }

  const commands = {
    open,
    emit({ client, namespace, events }) {
      const socket = sockets.get(`${client} ${namespace}`);
      for (const [event, ...args] of unpack(events)) socket.emit(event, ...args);
    },
    call({ client, namespace, event, args }) {
      const socket = sockets.get(`${client} ${namespace}`);
      return new Promise((resolve) =>
        socket.emit(event, ...unpack(args), (...answer) => resolve(pack(answer)))
      );
    },
    leave({ client, namespace }) {
      sockets.get(`${client} ${namespace}`).disconnect();
    },
    close({ client }) {
      managers.get(client)?.reconnection(false);
      for (const [key, socket] of sockets) {
        if (key.startsWith(`${client} `)) {
          socket.disconnect();
          sockets.delete(key);
        }
      }
      managers.delete(client);
    },
  };

  return async (command) => (await commands[command.op](command)) ?? null;
}

function isBinary(value) {
  return value instanceof ArrayBuffer || ArrayBuffer.isView(value);
}

export function pack(value) {
  if (isBinary(value)) {
    const bytes = ArrayBuffer.isView(value)
      ? new Uint8Array(value.buffer, value.byteOffset, value.byteLength)
      : new Uint8Array(value);
    let text = "";
    for (let at = 0; at < bytes.length; at += 0x8000) {
      text += String.fromCharCode(...bytes.subarray(at, at + 0x8000));
    }
    return { $bytes: btoa(text) };
  }
  return walk(value, pack);
}

export function unpack(value) {
  if (typeof value?.$bytes === "string") {
    const bytes = Uint8Array.from(atob(value.$bytes), (c) => c.charCodeAt(0));
    // what programs use: buffers in Node, array buffers and blobs in browsers
    if (value.blob) return new Blob([bytes]);
    return globalThis.Buffer ? globalThis.Buffer.from(bytes) : bytes.buffer;
  }
  return walk(value, unpack);
}

function walk(value, convert) {
  if (Array.isArray(value)) return value.map(convert);
  if (value && typeof value === "object") {
    return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, convert(item)]));
  }
  return value;
}
