import { writeFileSync, rmSync } from "fs";
writeFileSync("worker.js", "onmessage = ({ data }) => postMessage(data.map((n) => n + 1));");
const worker = new Worker("./worker.js");
const answer = await new Promise((resolve) => { worker.onmessage = ({ data }) => resolve(data); worker.postMessage([1, 2]); });
console.log(answer);
worker.terminate();
rmSync("worker.js");
