class Point { constructor(public x: number, protected readonly y: number = 2, private z?: number) {} sum(): number { return this.x + this.y + (this.z ?? 0); } }
console.log(new Point(1), new Point(1, 2, 3).sum());
