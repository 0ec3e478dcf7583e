class Temperature { accessor celsius = 20; get fahrenheit(): number { return this.celsius * 9 / 5 + 32; } set fahrenheit(f: number) { this.celsius = (f - 32) * 5 / 9; } }
const t = new Temperature(); t.fahrenheit = 212;
console.log(t.celsius, t.fahrenheit, Object.keys(t));
