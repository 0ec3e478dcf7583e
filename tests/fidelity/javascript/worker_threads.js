const { Worker } = require("worker_threads");
const worker = new Worker("require('worker_threads').parentPort.on('message', (n) => { require('worker_threads').parentPort.postMessage(n * 2); process.exit(0); })", { eval: true });
worker.on("message", (n) => console.log("answer", n));
worker.on("exit", (code) => console.log("exit", code));
worker.postMessage(21);
