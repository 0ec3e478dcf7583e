function first<T>(list: readonly T[]): T | undefined { return list[0]; }
const identity = <T,>(x: T): T => x;
class Box<T extends { length: number }> { constructor(private readonly value: T) {} size(): number { return this.value.length; } }
console.log(first<string>(["a"]), identity<number>(5), new Box([1, 2, 3]).size(), first([]));
