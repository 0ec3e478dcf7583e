import { writeFileSync, rmSync } from "node:fs";
writeFileSync("adder.ts", "declare var self: Worker; self.onmessage = (e: MessageEvent<number[]>) => postMessage(e.data.reduce((a: number, b: number) => a + b));");
const worker = new Worker("./adder.ts");
const sum = await new Promise<number>((resolve) => { worker.onmessage = (e: MessageEvent<number>) => resolve(e.data); worker.postMessage([1, 2, 3]); });
console.log(sum);
worker.terminate(); rmSync("adder.ts");
