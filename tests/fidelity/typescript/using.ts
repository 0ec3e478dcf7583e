class Resource { constructor(public name: string) { console.log("open", name); } [Symbol.dispose]() { console.log("close", this.name); } }
{ using a = new Resource("a"); using b = new Resource("b"); console.log("inside", a.name, b.name); }
async function main() { await using c = { async [Symbol.asyncDispose]() { console.log("async close"); } }; console.log("body", typeof c); }
await main();
