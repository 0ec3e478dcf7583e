// fidelity: stdin=streamed text
let size = 0;
for await (const piece of Bun.stdin.stream()) size += piece.length;
console.log(size);
