interface Named { name: string } interface Aged extends Named { age: number; greet?(other: Named): string; readonly [key: string]: unknown }
class Person implements Aged { [key: string]: unknown; constructor(public name: string, public age: number) {} greet(other: Named) { return `${this.name} greets ${other.name}`; } }
console.log(new Person("Ann", 5).greet({ name: "Bob" }));
