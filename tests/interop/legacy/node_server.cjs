// A Socket.IO 2 server with socket.io-adapter-postgres 1.x.
//
// Commands come on stdin, answers go to stdout, one JSON object a line; binary data travels as in
// agent.js. The process ends with its stdin.

const http = require("node:http");
const readline = require("node:readline");
const pg = require("pg");
const makeAdapter = require("socket.io-adapter-postgres");
const SocketIO = require("socket.io");

// without it the number of nodes is a string, and no request ever completes
pg.defaults.parseInt8 = true;

const { uri, name, prefix, namespaces, requestsTimeout } = JSON.parse(process.env.NODE_SERVER);
const pool = new pg.Pool({ connectionString: uri, application_name: name });
const listener = new pg.Client({ connectionString: uri });

// What is on its way to PostgreSQL: the adapter neither waits for it nor looks at what becomes of
// it, so that a message which PostgreSQL refuses would end the process.
const queries = new Set();
let failures = [];
const query = pool.query.bind(pool);
pool.query = (...args) => {
  const promise = query(...args);
  if (!promise) return;
  const done = () => queries.delete(promise);
  queries.add(promise);
  promise.then(done, (error) => {
    failures.push(error.message);
    done();
  });
};

async function sent() {
  do {
    await Promise.allSettled(queries);
    await new Promise(setImmediate);
  } while (queries.size);
}

const server = http.createServer();
const io = SocketIO(server, { maxHttpBufferSize: 3e6, serveClient: false });
// Each server counts for the namespace whose adapter was made last, which is the order of nsps.
delete io.nsps["/"];
for (const namespace of namespaces) {
  if (namespace === "/") io.nsps["/"] = io.sockets;
  else io.of(namespace);
}
io.adapter(makeAdapter({ key: prefix, pubClient: pool, subClient: listener, requestsTimeout }));

let asked = [];
for (const namespace of namespaces) {
  const { adapter } = io.of(namespace);
  adapter.on("error", (error) => failures.push(error.message));
  adapter.customHook = (data, answer) => {
    asked.push(data);
    if (data?.[0] === "stall" && data[1] === name) return;
    // not what it could not send: it cuts pieces by characters, and PostgreSQL counts bytes
    answer([name, data?.[0] === "measure" ? data[1].length : data]);
  };
}

function target({ namespace = "/", to = [], local, sid }) {
  // without the socket itself
  let operator = sid ? io.of(namespace).connected[sid].broadcast : io.of(namespace);
  for (const room of to) operator = operator.to(room);
  if (local) operator = operator.local;
  return operator;
}

// A request of the adapter's: what its callback gets.
function request({ namespace = "/" }, method, ...args) {
  const { adapter } = io.of(namespace);
  return new Promise((resolve, reject) =>
    adapter[method](...args, (error, answer) => {
      if (error) reject(Object.assign(error, { responses: answer }));
      else resolve(answer);
    })
  );
}

const JAVASCRIPT = () => [
  new Date(1e12 + 1),
  new Date(-1),
  undefined,
  { none: undefined, when: [new Date(0)], call() {} },
  NaN,
  [Infinity, -0, 2 ** 53, -(2 ** 40)],
];

const commands = {
  async emit({ args, ...where }) {
    target(where).emit(...args);
    await sent();
  },
  async emit_javascript() {
    io.emit("javascript", ...JAVASCRIPT());
    await sent();
  },
  // not of size 0: sending that to a client ends a server of socket.io 2
  async emit_buffers({ sizes }) {
    io.emit("buffers", ...sizes.map((size) => new Uint8Array(size).fill(size).buffer));
    await sent();
  },
  // all at once, as a program does
  async emit_burst({ events }) {
    for (const args of events) io.emit(...args);
    await sent();
  },
  clients: (where) => request(where, "clients", where.rooms ?? []),
  client_rooms: (where) => request(where, "clientRooms", where.sid),
  all_rooms: (where) => request(where, "allRooms"),
  remote_join: (where) => request(where, "remoteJoin", where.sid, where.room),
  remote_leave: (where) => request(where, "remoteLeave", where.sid, where.room),
  remote_disconnect: (where) => request(where, "remoteDisconnect", where.sid, where.close),
  custom_request: (where) => request(where, "customRequest", where.data),
  join: ({ sid, namespace, room }) =>
    new Promise((resolve) => io.of(namespace).connected[sid].join(room, () => resolve())),
  rooms: ({ sid, namespace }) => Object.keys(io.of(namespace).adapter.sids[sid] ?? {}),
  sids: ({ namespace }) => Object.keys(io.of(namespace).connected),
  take_asked() {
    const taken = asked;
    asked = [];
    return taken;
  },
  take_failures() {
    const taken = failures;
    failures = [];
    return taken;
  },
  // how many nodes it would wait for
  nodes: ({ namespace }) =>
    new Promise((resolve) => {
      const { adapter } = io.of(namespace);
      adapter._numsub(adapter.requestChannel, (error, count) => resolve(count));
    }),
  async leave() {
    io.close();
    await sent();
    await listener.end();
    await pool.end();
  },
};

const write = (message) => process.stdout.write(JSON.stringify(message) + "\n");

async function main() {
  const { pack, unpack } = await import("../agent.js");
  await listener.connect();
  // what the adapter has asked it for is done when this is
  await listener.query("SELECT");
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
}

main();
