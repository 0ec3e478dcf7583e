class Counter { #count = 0; static #made = 0; private hidden = 1; constructor() { Counter.#made++; } increment() { return ++this.#count; } static get made() { return Counter.#made; } has(o: object) { return #count in o; } }
const c = new Counter(); c.increment();
console.log(c.increment(), Counter.made, c.has({}), Object.keys(c), (c as any).hidden);
