// fidelity: stdin=one\ntwo\n
const text = await Bun.stdin.text();
console.log(JSON.stringify(text));
