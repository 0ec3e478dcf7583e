const pair: [name: string, age?: number] = ["Ann"];
const rest: [number, ...string[]] = [1, "a", "b"];
const [n, ...words] = rest;
console.log(pair.length, n, words, [1, 2] as const);
