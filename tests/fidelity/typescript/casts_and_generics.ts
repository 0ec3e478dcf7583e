const less = <T>(a: T, b: T): boolean => a < b;
const cast = <any>{ a: 1 };
const html = "<b>bold</b>", nested = new Map<string, Array<Map<string, number>>>();
console.log(less<number>(1, 2), cast.a, html, nested.size, 1 < 2, 3 > 2);
