async function* count(to: number): AsyncGenerator<number, string, void> { for (let i = 1; i <= to; i++) { await Bun.sleep(1); yield i; } return "done"; }
for await (const n of count(3)) console.log(n);
const it = count(0); console.log(await it.next());
