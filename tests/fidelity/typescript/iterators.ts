class Range implements Iterable<number> { constructor(private from: number, private to: number) {} *[Symbol.iterator](): Iterator<number> { for (let i = this.from; i < this.to; i++) yield i; } }
console.log([...new Range(1, 4)], Math.max(...new Range(0, 9)), Array.from(new Range(0, 2), (n) => n * 2));
