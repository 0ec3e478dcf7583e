// fidelity: stdin={"a": [1, 2]}
console.log(await Bun.stdin.json());
