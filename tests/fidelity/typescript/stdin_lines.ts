// fidelity: stdin=3\n4\nfive\n
const numbers: number[] = [];
for await (const line of console) { const n = Number(line); if (Number.isNaN(n)) console.error(`no number: ${line}`); else numbers.push(n); }
console.log(numbers.reduce((a, b) => a + b, 0));
