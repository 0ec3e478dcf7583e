const text = await Bun.stdin.text();
console.log(JSON.stringify(text), process.stdin.isTTY);
