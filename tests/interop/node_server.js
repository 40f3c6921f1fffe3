// A Socket.IO server with the official PostgreSQL adapter, and the official emitter.
//
// Commands come on stdin, answers go to stdout, one JSON object a line; binary data travels as in
// agent.js. The process ends with its stdin.

import http from "node:http";
import readline from "node:readline";
import pg from "pg";
import { createAdapter } from "@socket.io/postgres-adapter";
import { Emitter } from "@socket.io/postgres-emitter";
import { Server } from "socket.io";
import { pack, unpack } from "./agent.js";

const { uri, name, prefix, ...options } = JSON.parse(process.env.NODE_SERVER);
const pool = new pg.Pool({ connectionString: uri, application_name: name });

// What is on its way to PostgreSQL: neither the adapter nor the emitter lets its caller wait.
const queries = new Set();
function track(promise) {
  const done = () => queries.delete(promise);
  queries.add(promise);
  promise.then(done, done);
  return promise;
}
const query = pool.query.bind(pool);
pool.query = (...args) => track(query(...args));

// Others hear of this server, and ask it, from its first heartbeat, which does not wait for LISTEN.
const channels = new Set();
pool.on("connect", (client) => {
  const query = client.query.bind(client);
  client.query = (...args) => {
    const promise = query(...args);
    const [, channel] = String(args[0]).match(/^LISTEN "(.*)"$/) ?? [];
    if (channel) track(promise.then(() => channels.add(channel)));
    return promise;
  };
});

async function listening(namespaces) {
  while (!namespaces.every((namespace) => channels.has(`${prefix}#${namespace}`)))
    await new Promise((resolve) => setTimeout(resolve, 10));
}

async function sent() {
  do {
    await Promise.allSettled(queries);
    await new Promise(setImmediate);
  } while (queries.size);
}

const server = http.createServer();
const io = new Server(server, { maxHttpBufferSize: 3e6 });
io.adapter(
  createAdapter(pool, {
    channelPrefix: prefix,
    errorHandler: (error) => console.error("the adapter's error:", error),
    ...options,
  })
);

let heard = [];
for (const namespace of [io.of("/"), io.of("/chat")]) {
  const inChat = namespace.name === "/chat" ? ["/chat"] : [];
  // called with a function to answer with where the sender wants an answer
  const hear = (event, answer) => (...args) => {
    const respond = typeof args.at(-1) === "function" ? args.pop() : () => {};
    heard.push([event, ...inChat, ...args]);
    answer(respond, ...args);
  };
  namespace.on("who", hear("who", (respond, ...args) => respond([name, ...inChat, ...args])));
  namespace.on(
    "stall",
    hear("stall", (respond, ...names) => {
      if (names.length && !names.includes(name)) respond([name]);
    })
  );
}

// clients bring these namespaces into being
const dynamic = io.of(/^\/room-/);

// with `from`: as that socket says it, to all but itself
function target({ namespace = "/", from, local, timeout, ...where }) {
  const nsp = io.of(namespace);
  let operator = narrowed(from ? nsp.sockets.get(from).broadcast : nsp, where);
  if (local) operator = operator.local;
  // as text where it comes as text, such as from an environment variable
  if (timeout) operator = operator.timeout(timeout.length ? timeout : timeout * 1000);
  return operator;
}

function emitterTarget({ namespace = "/", ...where }) {
  // not emitter.of(): that one forgets the prefix
  return narrowed(new Emitter(pool, namespace, { channelPrefix: prefix }), where);
}

function narrowed(operator, { to = [], except_rooms: except = [], volatile, compress }) {
  for (const room of to) operator = operator.to(room);
  for (const room of except) operator = operator.except(room);
  if (volatile) operator = operator.volatile;
  if (compress !== undefined) operator = operator.compress(compress);
  return operator;
}

class Point {
  x = 1;
  toJSON() {
    return { point: this.x };
  }
}

const describe = ({ id, rooms, data, handshake }) => ({ id, rooms: [...rooms], data, handshake });

const commands = {
  async emit({ args, ...where }) {
    target(where).emit(...args);
    await sent();
  },
  // all at once, as a program does
  async emit_burst({ events }) {
    for (const args of events) io.emit(...args);
    await sent();
  },
  // what only JavaScript has
  async emit_values({ args }) {
    const values = [new Date(0), new Date(NaN), undefined, NaN, -Infinity, -0, [, 1]];
    const objects = [{ a: undefined, b: 1 }, new Map([[1, 2]]), new Set([1]), new Point()];
    io.emit("values", ...values, ...objects, "half \ud83d", "\ude00", ...args);
    await sent();
  },
  async emit_views() {
    const { buffer } = new Uint8Array([1, 2, 3, 4, 5, 6, 7, 8]);
    const views = [new Uint16Array(buffer, 2, 2), new DataView(buffer, 6), new Float64Array(1)];
    io.emit("views", buffer, { views });
    await sent();
  },
  async emit_to_dynamic({ args }) {
    dynamic.emit(...args);
    await sent();
  },
  emit_with_ack: ({ args, ...where }) => target(where).emitWithAck(...args),
  fetch_sockets: async (where) => (await target(where).fetchSockets()).map(describe),
  // as programs use what fetchSockets returns
  async use_socket({ sid, event, args, room }) {
    const [socket] = await io.in(sid).fetchSockets();
    socket.join(["other", room]);
    await sent();
    socket.leave("other");
    await sent();
    return socket.timeout(5000).emitWithAck(event, ...args);
  },
  async end_socket({ sid }) {
    const [socket] = await io.in(sid).fetchSockets();
    socket.disconnect(true);
    await sent();
  },
  async sockets_join({ rooms, ...where }) {
    target(where).socketsJoin(rooms);
    await sent();
  },
  async sockets_leave({ rooms, ...where }) {
    target(where).socketsLeave(rooms);
    await sent();
  },
  async disconnect_sockets({ close, ...where }) {
    target(where).disconnectSockets(close);
    await sent();
  },
  async server_side_emit({ namespace, args }) {
    io.of(namespace).serverSideEmit(...args);
    await sent();
  },
  server_side_call: ({ namespace, args }) => io.of(namespace).serverSideEmitWithAck(...args),
  async emitter({ method, args, ...where }) {
    emitterTarget(where)[method](...args);
    await sent();
  },
  async emitter_burst({ events }) {
    for (const args of events) emitterTarget({}).emit(...args);
    await sent();
  },
  join({ sid, namespace, room }) {
    io.of(namespace).sockets.get(sid).join(room);
  },
  set_data({ sid, data }) {
    io.of("/").sockets.get(sid).data = data;
  },
  take_heard() {
    const taken = heard;
    heard = [];
    return taken;
  },
  servers: ({ namespace }) => io.of(namespace).adapter.serverCount(),
  listening: ({ namespaces }) => listening(namespaces),
  uid: ({ namespace }) => io.of(namespace).adapter.uid,
  async leave() {
    await io.close();
    await sent();
  },
};

const write = (message) => process.stdout.write(JSON.stringify(message) + "\n");

await listening(["/", "/chat"]);
server.listen(0, "127.0.0.1", () => write({ port: server.address().port }));

readline
  .createInterface({ input: process.stdin })
  .on("line", async (line) => {
    const { id, op, ...command } = JSON.parse(line);
    try {
      const value = await commands[op](unpack(command));
      write({ answer: id, value: pack(value ?? null) });
    } catch (error) {
      write({ answer: id, error: error.message, partial: pack(error.responses ?? null) });
    }
  })
  .on("close", () => process.exit());
