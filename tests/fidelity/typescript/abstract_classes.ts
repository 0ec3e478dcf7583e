abstract class Shape { abstract area(): number; describe(): string { return `${this.constructor.name} ${this.area()}`; } }
class Square extends Shape { constructor(private side: number) { super(); } override area() { return this.side ** 2; } }
console.log(new Square(3).describe());
