const server = Bun.serve({ port: 0, hostname: "127.0.0.1", fetch: (request) => new Response("path " + new URL(request.url).pathname) });
console.log(await (await fetch(`http://127.0.0.1:${server.port}/a/b`)).text());
await server.stop(true);
const net = require("net");
const echo = net.createServer((socket) => socket.pipe(socket)).listen(0, "127.0.0.1", () => {
  const client = net.connect(echo.address().port, "127.0.0.1");
  client.on("data", (data) => { console.log(data.toString()); client.end(); echo.close(() => console.log("closed")); });
  client.write("echoed");
});
await new Promise((resolve) => echo.on("close", resolve));
