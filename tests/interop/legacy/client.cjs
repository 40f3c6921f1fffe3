// Clients of Socket.IO 2 (Engine.IO 3), steered as those of client.js.

const readline = require("node:readline");
const io = require("socket.io-client");

// what this version lacks: all events, as the server sent them
io.Socket.prototype.onAny = function (listener) {
  this.onevent = ({ data, id }) =>
    listener.apply(this, id == null ? data : [...data, this.ack(id)]);
};

const write = (message) => process.stdout.write(JSON.stringify(message) + "\n");

async function main() {
  const { makeAgent } = await import("../agent.js");
  const agent = makeAgent(io, write);
  readline
    .createInterface({ input: process.stdin })
    .on("line", async (line) => {
      const command = JSON.parse(line);
      try {
        write({ answer: command.id, value: await agent(command) });
      } catch (error) {
        write({ answer: command.id, error: String(error?.stack ?? error) });
      }
    })
    .on("close", () => process.exit());
}

main();
