// fidelity: stdin=1\n2\n3\n
let sum = 0, rest = "";
for await (const piece of process.stdin) rest += piece;
for (const line of rest.trim().split("\n")) sum += Number(line);
console.log(sum);
